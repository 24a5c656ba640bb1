"""Audio files in and out, always float32 (channels, samples).

soundfile reads and writes them; audio streams of MP4 files are decoded by PyAV (containers.py).

What is wrong with an audio file.

Files of decoded stems, as `mge_plugin.data.cache` writes them.

Audio streams of MP4 files (.stem.mp4, .m4a), decoded by PyAV, which is an optional package.
"""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile as sf
import soxr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mge_plugin.files import write_file

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says what is wrong.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path = path


SUFFIX = ".stem.safetensors"
_FULL = 32767  # of 16 bits


def _is_cached(path: Path) -> bool:
    """Whether a file is one of a cache."""
    return path.name.endswith(SUFFIX)


def write_cached(path: Path, audio: np.ndarray) -> None:
    """Keep (channels, samples) in 16 bits, in relation to their peak, whole or not at all."""
    scale = (float(np.abs(audio).max()) or 1.0) / _FULL
    samples = np.round(audio / np.float32(scale)).astype(np.int16)
    write_file(path, save({"audio": samples}, {"scale": repr(scale)}))


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a stem of (channels, samples) is kept there; a file that a crash cut off is none."""
    try:
        with safe_open(path, "np") as file:
            return tuple(file.get_slice("audio").get_shape()) == shape
    except (SafetensorError, OSError):
        return False


def _read_cached(path: Path, start: int, frames: int) -> np.ndarray:
    """Samples [start, start + frames) of a stem that is kept, zeros outside; (channels, frames)."""
    try:
        with safe_open(path, "np") as file:
            audio, scale = file.get_slice("audio"), np.float32(float(file.metadata()["scale"]))
            channels, length = audio.get_shape()
            begin, end = (min(max(x, 0), length) for x in (start, start + frames))
            window = np.zeros((channels, frames), dtype=np.float32)
            if begin < end:
                np.multiply(audio[:, begin:end], scale, out=window[:, begin - start : end - start])
    except (SafetensorError, OSError, KeyError) as error:
        raise AudioError(f"not a decoded stem ({error})", path) from error
    return window


SUFFIXES = (".mp4", ".m4a")
PRE_ROLL = 8192  # samples decoded before a window: the first AAC frame after a seek is off
MISSING = "PyAV is needed to decode it: pip install 'mge-plugin[musdb]'"


def _is_container(path: Path) -> bool:
    """Whether PyAV is to read the file, not soundfile."""
    return path.suffix.lower() in SUFFIXES


def has_pyav() -> bool:
    """Whether the optional package is there."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def stream_infos(path: Path) -> list[tuple[int, int]]:
    """(sample rate, samples) of every audio stream; cover art and other streams do not count."""
    with _open(path) as container:
        return [_info(path, stream) for stream in container.streams.audio]


def _stream_info(path: Path, stream: int = 0) -> tuple[int, int]:
    """Sample rate and number of samples of one audio stream, by its number among these."""
    with _open(path) as container:
        return _info(path, _stream(path, container, stream))


def _read_stream(path: Path, start: int, frames: int, stream: int = 0) -> np.ndarray:
    """Samples [start, start + frames) by seeking, zeros outside of the file; (channels, frames).

    They are those of the whole stream decoded, sample 0 after the encoder's delay. What an encoder
    left to the decoder's noise generator (AAC's noise substitution) is another noise every time.
    """
    with _open(path) as container:
        source = _stream(path, container, stream)
        rate, total = _info(path, source)
        window = np.zeros((source.codec_context.channels, frames), dtype=np.float32)
        first, last = max(start, 0), min(start + frames, total)
        for begin, audio in _decode(path, container, source, first, rate):
            if begin >= last:
                break
            low, high = max(begin, first), min(begin + audio.shape[1], last)
            if low < high:
                window[:, low - start : high - start] = audio[:, low - begin : high - begin]
    return window


@contextmanager
def _open(path: Path) -> Iterator["av.container.InputContainer"]:
    """A file to decode from; whatever PyAV cannot do with it raises AudioError."""
    try:
        import av
    except ImportError as error:
        raise AudioError(MISSING, path) from error
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"not readable as audio ({reason})", path) from error


def _stream(path: Path, container: "av.container.InputContainer", number: int) -> "av.AudioStream":
    streams = container.streams.audio
    if number >= len(streams):
        raise AudioError(f"has {len(streams)} audio streams, no number {number}", path)
    return streams[number]


def _info(path: Path, stream: "av.AudioStream") -> tuple[int, int]:
    rate = stream.codec_context.sample_rate
    if not stream.duration or not rate:
        raise AudioError("the header does not say how many samples follow", path)
    return rate, round(stream.duration * stream.time_base * rate)


def _decode(
    path: Path,
    container: "av.container.InputContainer",
    stream: "av.AudioStream",
    first: int,
    rate: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first sample, (channels, samples)) of frames from before sample `first` on."""
    import av

    if first > PRE_ROLL:  # else from the start: a seek to there would lose the first frame
        offset = int((first - PRE_ROLL) / rate / stream.time_base)
        container.seek(offset, stream=stream, backward=True)
    to_float = av.AudioResampler(format="fltp")
    for packet_frame in container.decode(stream):
        if packet_frame.sample_rate != rate or packet_frame.pts is None:
            raise AudioError(f"a stream of changing rate, or without times ({rate} Hz)", path)
        for frame in to_float.resample(packet_frame):
            audio = frame.to_ndarray()
            if not np.isfinite(audio).all():
                raise AudioError("samples are NaN or infinite", path)
            yield round(packet_frame.pts * packet_frame.time_base * rate), audio


_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's length of a stream whose header does not give one
_LOUDNESS_BLOCK = 0.4  # seconds
_CANCELS = 0.1  # share of the power of independent channels' mean below which a mean is cancelled
_GUESSES = {"MP3": 4_608}  # formats whose header guesses the length: by how many samples at most
BLOCK = 65_536  # samples decoded at a time where only their number counts
FLAC_CHANNELS, FLAC_RATE = 8, 655_350  # at most, the rate in Hz
_FLAC_ANY_RATE = 65_535  # Hz, up to which a FLAC has every rate, and tens of Hz beyond
_SAMPLE_RATES = range(1_000, 1_000_001)  # Hz; a header that says otherwise is damaged


def audio_info(path: Path, stream: int | None = None) -> tuple[int, int]:
    """Sample rate and number of samples from the header; one that makes no sense raises.

    `stream` is the audio stream's number in an MP4 file. An MP3's header may only guess: where its
    last sample cannot be read, the samples are counted by decoding.
    """
    if _is_container(path):
        return _stream_info(path, stream or 0)
    with _open_audio(path) as file:
        return file.samplerate, _count(file) if file.format in _GUESSES else file.frames


def read_audio(path: Path | str, stream: int | None = None) -> tuple[np.ndarray, int]:
    """A whole file as (channels, samples) and its sample rate; NaN or Inf samples raise.

    Of a cut MP3 this is what is left; its header's length is only a guess.
    """
    path = Path(path)
    if _is_container(path):
        rate, frames = _stream_info(path, stream or 0)
        return _read_stream(path, 0, frames, stream or 0), rate
    with _open_audio(path) as file:
        audio, expected, sample_rate = _read(path, file, file.frames), file.frames, file.samplerate
    if not audio.size:
        raise AudioError("no samples can be read", path)
    if audio.shape[1] < expected:
        logger.warning("%s: %d of %d samples can be read", path, audio.shape[1], expected)
    return audio, sample_rate


def read_window(path: Path, start: int, frames: int, stream: int | None = None) -> np.ndarray:
    """Samples [start, start + frames) by seeking, zeros outside of the file; (channels, frames)."""
    if _is_cached(path):
        return _read_cached(path, start, frames)
    if _is_container(path):
        return _read_stream(path, start, frames, stream or 0)
    with _open_audio(path) as file:
        begin, end = (min(max(x, 0), file.frames) for x in (start, start + frames))
        window = np.zeros((file.channels, frames), dtype=np.float32)
        if begin < end:
            file.seek(begin)
            audio = _read(path, file, end - begin)
            read = audio.shape[1]
            if begin + read < min(end, file.frames - _GUESSES.get(file.format, 0)):
                raise AudioError(f"only {read} of {end - begin} samples read", path)
            window[:, begin - start : begin - start + read] = audio
    return window


def write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a float32 WAV, whole or not at all."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, sample_rate, subtype="FLOAT", format="WAV")
    return write_file(path, _without_date(buffer.getvalue()))


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a FLAC of 24 bits, whole or not at all; see `flac_problem`."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, sample_rate, subtype="PCM_24", format="FLAC")
    return write_file(path, buffer.getvalue())


def flac_problem(audio: np.ndarray, sample_rate: int) -> str | None:
    """Why a FLAC cannot hold (channels, samples); None if it can."""
    peak = float(np.abs(audio).max())
    if peak > 1:
        return f"its peak of {20 * np.log10(peak):+.1f} dBFS would be clipped"
    if len(audio) > FLAC_CHANNELS:
        return f"it has {len(audio)} channels, of at most {FLAC_CHANNELS}"
    if sample_rate > FLAC_RATE or (sample_rate > _FLAC_ANY_RATE and sample_rate % 10):
        return f"a rate of {sample_rate} Hz does not fit it"
    return None


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
    """(any, samples) to (channels, samples): one channel by `downmix`, or copies of it for more.

    For fewer, but not mono, the first are kept: in surround these are front left and right.
    """
    if audio.shape[0] == channels:
        return audio
    if audio.shape[0] > channels > 1:
        return np.ascontiguousarray(audio[:channels])
    return np.repeat(downmix(audio), channels, axis=0)


def downmix(audio: np.ndarray) -> np.ndarray:
    """(any, samples) to (1, samples): the mean, or if it cancels, the channels' main direction.

    The mean of independent channels has a share 1/channels of their power. If it has less than a
    tenth of that, channels of opposite polarity cancel: then they are projected on the first
    principal component, its largest weight positive, at the level that the mean of equal channels
    would have.
    """
    mean = audio.mean(axis=0, keepdims=True)
    count = len(audio)
    if count < 2 or not audio.any():
        return mean
    covariance = (audio.astype(np.float64) @ audio.T.astype(np.float64)) / audio.shape[1]
    if covariance.mean() >= _CANCELS * np.trace(covariance) / count**2:
        return mean
    direction = np.linalg.eigh(covariance)[1][:, -1]
    largest = np.abs(direction) > 0.99 * np.abs(direction).max()  # the first of equal ones
    direction *= np.sign(direction[largest.argmax()]) / np.sqrt(count)
    return direction[None].astype(audio.dtype) @ audio


def rms_db(audio: np.ndarray) -> float:
    """Level over all channels in dBFS; -inf for silence."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * np.log10(power) if power > 0 else -np.inf


def loudness_db(audio: np.ndarray, sample_rate: int) -> float:
    """Level of the loud part of (channels, samples) in dBFS; -inf for silence.

    The mean power of the blocks of 0.4 s that are within 20 dB of the loudest, so pauses do not
    count. Unlike LUFS it has no absolute threshold: a gain of g dB changes it by exactly g.
    """
    size = max(1, min(audio.shape[1], round(_LOUDNESS_BLOCK * sample_rate)))
    blocks = audio[:, : audio.shape[1] // size * size].reshape(len(audio), -1, size)
    powers = np.square(blocks, dtype=np.float64).mean(axis=(0, 2))
    peak = powers.max(initial=0.0)
    return 10 * np.log10(powers[powers >= peak / 100].mean()) if peak > 0 else -np.inf


@contextmanager
def _open_audio(path: Path) -> Iterator[sf.SoundFile]:
    """A file to read from; whatever soundfile cannot do with it raises AudioError."""
    if path.suffix.lower() == ".raw":
        raise AudioError("raw samples have no header, convert them to WAV or FLAC", path)
    try:
        # bytes, since soundfile cannot encode a name that is no UTF-8; Windows has no such names
        with sf.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as file:
            _check_header(path, file)
            yield file
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"not readable as audio ({_reason(path, error)})", path) from error


def _check_header(path: Path, file: sf.SoundFile) -> None:
    if file.frames == 0:
        raise AudioError(f"the header says 0 samples ({path.stat().st_size} bytes)", path)
    if file.frames == _UNKNOWN_FRAMES:
        raise AudioError("the header does not say how many samples follow", path)
    if file.samplerate not in _SAMPLE_RATES:
        raise AudioError(f"the header says {file.samplerate} samples a second", path)


def _count(file: sf.SoundFile) -> int:
    """Samples that are really there: those of the header if its last one can be read."""
    with suppress(sf.LibsndfileError):  # of a file cut off, seeking beyond the cut may fail
        file.seek(file.frames - 1)
        if len(file.read(1)):
            return file.frames
    file.seek(0)
    return sum(len(block) for block in file.blocks(BLOCK, dtype="float32"))


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
