"""Audio files in and out, always float32 (channels, samples), always through soundfile."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from mge_plugin.files import write_file

logger = logging.getLogger(__name__)

UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's length of a stream whose header does not give one
SAMPLE_RATES = range(1_000, 1_000_001)  # Hz; a header that says otherwise is damaged


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says what is wrong.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path = path


def audio_info(path: Path) -> tuple[int, int]:
    """Sample rate and number of samples from the header; one that makes no sense raises."""
    with _open(path) as file:
        return file.samplerate, file.frames


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """A whole file as (channels, samples) and its sample rate; NaN or Inf samples raise.

    Of a cut MP3 this is what is left; its header's length is only a guess.
    """
    with _open(path) as file:
        audio, expected, sample_rate = _read(path, file, file.frames), file.frames, file.samplerate
    if not audio.size:
        raise AudioError("no samples can be read", path)
    if audio.shape[1] < expected:
        logger.warning("%s: %d of %d samples can be read", path, audio.shape[1], expected)
    return audio, sample_rate


def read_window(path: Path, start: int, frames: int) -> np.ndarray:
    """Samples [start, start + frames) by seeking, zeros outside of the file; (channels, frames)."""
    with _open(path) as file:
        begin, end = (min(max(x, 0), file.frames) for x in (start, start + frames))
        window = np.zeros((file.channels, frames), dtype=np.float32)
        if begin < end:
            file.seek(begin)
            audio = _read(path, file, end - begin)
            if audio.shape[1] < end - begin:
                raise AudioError(f"only {audio.shape[1]} of {end - begin} samples read", path)
            window[:, begin - start : end - start] = audio
    return window


def write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a float32 WAV, whole or not at all."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, sample_rate, subtype="FLOAT", format="WAV")
    return write_file(path, _without_date(buffer.getvalue()))


def _without_date(wav: bytes) -> bytes:
    """libsndfile notes the time of writing beside the peak: the same audio, the same bytes."""
    head, chunk, rest = wav.partition(b"PEAK")  # then size, version and time, 4 bytes each
    return head + chunk + rest[:8] + bytes(4) + rest[12:] if chunk else wav


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of (channels, samples); the length becomes ceil(n * new / old)."""
    if rate == new_rate or not audio.size:
        return audio
    length = -(-audio.shape[1] * new_rate // rate)
    # soxr ends up to one sample earlier: zeros after the end make it give that one too.
    padded = np.pad(audio, ((0, 0), (0, 1 + rate // new_rate)))
    return fit_length(soxr.resample(padded.T, rate, new_rate).T.astype(np.float32), length)


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with zeros at the end, to `length` samples."""
    audio = audio[:, :length]
    return np.pad(audio, ((0, 0), (0, length - audio.shape[1])))


def to_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """(any, samples) to (channels, samples): the mean for mono, copies of the mean for more.

    For fewer, but not mono, the first are kept: of surround these are front left and right.
    """
    if audio.shape[0] == channels:
        return audio
    if audio.shape[0] > channels > 1:
        return np.ascontiguousarray(audio[:channels])
    return np.repeat(audio.mean(axis=0, keepdims=True), channels, axis=0)


def rms_db(audio: np.ndarray) -> float:
    """Level over all channels in dBFS; -inf for silence."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * np.log10(power) if power > 0 else -np.inf


@contextmanager
def _open(path: Path) -> Iterator[sf.SoundFile]:
    """A file to read from; whatever soundfile cannot do with it raises AudioError."""
    if path.suffix.lower() == ".raw":
        raise AudioError("raw samples have no header, convert them to WAV or FLAC", path)
    try:
        with sf.SoundFile(str(path)) as file:
            _check_header(path, file)
            yield file
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"not readable as audio ({_reason(path, error)})", path) from error


def _check_header(path: Path, file: sf.SoundFile) -> None:
    if file.frames == 0:
        raise AudioError(f"the header says 0 samples ({path.stat().st_size} bytes)", path)
    if file.frames == UNKNOWN_FRAMES:
        raise AudioError("the header does not say how many samples follow", path)
    if file.samplerate not in SAMPLE_RATES:
        raise AudioError(f"the header says {file.samplerate} samples a second", path)


def _read(path: Path, file: sf.SoundFile, frames: int) -> np.ndarray:
    """The next samples as (channels, samples), every one of them a number."""
    audio = file.read(frames, dtype="float32", always_2d=True)
    if not np.isfinite(audio).all():
        raise AudioError(f"{int((~np.isfinite(audio)).sum())} samples are NaN or infinite", path)
    return np.ascontiguousarray(audio.T)


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a folder"
    if path.stat().st_size == 0:
        return "the file is empty"
    return str(getattr(error, "error_string", error))
