"""Audio files in and out, always float32 (channels, samples).

soundfile reads and writes them. PyAV, an optional package, decodes the audio streams of MP4 files
(.stem.mp4, .m4a). Stems that `mge_plugin.data.cache` keeps decoded are safetensors files.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

import numpy as np
import soundfile as sf
import soxr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mge_plugin.data.songs import Part
from mge_plugin.files import check_regular, write_file, written_whole

if TYPE_CHECKING:
    import av

_logger = logging.getLogger(__name__)

CACHED = ".stem.safetensors"  # how the name of a stem that is kept decoded ends
CONTAINERS = (".mp4", ".m4a")  # files that PyAV reads
MISSING_PYAV = "PyAV is needed to decode it: pip install 'mge-plugin[musdb]'"

_FULL = 32767  # of 16 bits
_BLOCK = 65_536  # samples read or written at a time
_UNSURE = {"FLAC", "MP3", "OGG"}  # formats whose header may have a wrong length
_GUESSING = {"MP3"}  # formats whose header only guesses it
_UNKNOWN = 2**63 - 1  # libsndfile's length of a file whose header has none
_MOST_CUT = 100  # a header that claims more times the samples that can be read is wrong
_SAMPLE_RATES = range(1_000, 1_000_001)  # Hz; a header with another rate is damaged
_LOUDEST = 100.0  # a peak above this is not audio but, for example, integers stored as floats
_FLAC_CHANNELS, _FLAC_RATE = 8, 655_350  # at most, the rate in Hz
_FLAC_ANY_RATE = 65_535  # Hz, up to which a FLAC can have any rate; above only multiples of 10 Hz
_LOUDNESS_BLOCK = 0.4  # seconds
_CANCELS = 0.1  # share of the power of independent channels' mean below which a mean is cancelled
_PRE_ROLL = 8192  # samples decoded before a window: the first AAC frame after a seek is wrong


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and the reason.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path = path


class _SoundFile(sf.SoundFile):
    """A file to read from.

    soundfile seeks to its own position after every read of a seekable file, which fails at the end
    of a file whose header has a wrong length.
    """

    def seekable(self) -> bool:
        return False


def audio_info(path: Path, stream: int | None = None) -> tuple[int, int]:
    """Sample rate and number of samples; a header that makes no sense raises AudioError.

    `stream` is the audio stream's number in an MP4 file.
    """
    if _is_container(path):
        with _open_container(path) as container:
            return _stream_info(path, _stream(path, container, stream or 0))
    with _open(path) as file:
        return file.samplerate, _length(path, file)


def check_level(path: Path) -> None:
    """Raise AudioError for a file of floats that are too large for audio, by three places in it."""
    if _is_container(path):
        return
    with _open(path) as file:
        if file.subtype in ("FLOAT", "DOUBLE"):
            for start in np.linspace(0, max(0, file.frames - _BLOCK), 3).astype(int):
                file.seek(int(start))
                _check_peak(path, file.read(_BLOCK, dtype="float32"))


def read_audio(path: Path | str, stream: int | None = None) -> tuple[np.ndarray, int]:
    """A whole file as (channels, samples) and its sample rate; NaN or infinite samples raise.

    Of a file that was cut off, it is what can be read.
    """
    path = Path(path)
    if _is_container(path):
        rate, frames = audio_info(path, stream)
        return _read_stream(path, 0, frames, stream or 0), rate
    with _open(path) as file:
        length, sample_rate = _length(path, file), file.samplerate
        audio, expected = _read(path, file, length), file.frames
    if not audio.size:
        raise AudioError("no samples can be read", path)
    if audio.shape[1] < min(expected, length):
        _logger.warning("%s: %d of %d samples can be read", path, audio.shape[1], length)
    return audio, sample_rate


def read_window(part: Part, start: int, frames: int) -> np.ndarray:
    """Samples [start, start + frames) by seeking, zeros outside of the part; (channels, frames).

    A file that has fewer samples than the part, for example since it was cut after it was indexed,
    raises AudioError where some of the missing samples are needed.
    """
    path = part.path
    if path.name.endswith(CACHED):
        return _read_cached(path, start, frames)
    if _is_container(path):
        return _read_stream(path, start, frames, part.stream or 0)
    with _open(path) as file:
        begin, end = (min(max(x, 0), part.num_frames) for x in (start, start + frames))
        window = np.zeros((file.channels, frames), dtype=np.float32)
        if begin < end:
            audio = _read_from(path, file, begin, end - begin)
            if audio.shape[1] < end - begin:
                raise AudioError(f"only {audio.shape[1]} of {end - begin} samples read", path)
            _check_peak(path, audio)
            window[:, begin - start : end - start] = audio
    return window


def write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a float32 WAV, whole or not at all."""
    return _write(path, audio, sample_rate, "WAV", "FLOAT")


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a FLAC of 24 bits, whole or not at all; see `flac_problem`."""
    return _write(path, audio, sample_rate, "FLAC", "PCM_24")


def flac_problem(audio: np.ndarray, sample_rate: int) -> str | None:
    """Why a FLAC cannot store (channels, samples); None if it can."""
    peak = float(np.abs(audio).max())
    if peak > 1:
        return f"its peak of {20 * np.log10(peak):+.1f} dBFS would be clipped"
    if len(audio) > _FLAC_CHANNELS:
        return f"it has {len(audio)} channels, of at most {_FLAC_CHANNELS}"
    if sample_rate > _FLAC_RATE or (sample_rate > _FLAC_ANY_RATE and sample_rate % 10):
        return f"a FLAC cannot have a rate of {sample_rate} Hz"
    return None


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of (channels, samples); the length becomes ceil(n * new / old)."""
    if rate == new_rate or not audio.size:
        return audio
    length = -(-audio.shape[1] * new_rate // rate)
    # soxr ends up to one sample earlier: zeros after the end make it return that sample too.
    padded = np.pad(audio, ((0, 0), (0, 1 + rate // new_rate)))
    return fit_length(soxr.resample(padded.T, rate, new_rate).T.astype(np.float32), length)


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with zeros at the end, to `length` samples."""
    audio = audio[:, :length]
    return np.pad(audio, ((0, 0), (0, length - audio.shape[1])))


def to_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """(any, samples) to (channels, samples): one channel by `_downmix`, or copies of it for more.

    For fewer, but not mono, the first are kept: in surround these are front left and right.
    """
    if audio.shape[0] == channels:
        return audio
    if audio.shape[0] > channels > 1:
        return np.ascontiguousarray(audio[:channels])
    return np.repeat(_downmix(audio), channels, axis=0)


def _downmix(audio: np.ndarray) -> np.ndarray:
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
def _open(path: Path) -> Iterator[_SoundFile]:
    """A file to read from; whatever soundfile cannot do with it raises AudioError."""
    if path.suffix.lower() == ".raw":
        raise AudioError("raw samples have no header, convert them to WAV or FLAC", path)
    try:
        check_regular(path)
        with _SoundFile(_name(path)) as file:
            if file.frames == 0:
                raise AudioError(f"the header says 0 samples ({path.stat().st_size} bytes)", path)
            if file.samplerate not in _SAMPLE_RATES:
                raise AudioError(f"the header says {file.samplerate} samples a second", path)
            yield file
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"not readable as audio ({_reason(path, error)})", path) from error


def _name(path: Path) -> bytes | str:
    """Bytes, since soundfile cannot encode a name that is not UTF-8; Windows has no such names."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a folder"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)


def _length(path: Path, file: _SoundFile) -> int:
    """Samples that the file really has, from its header if its last one can be read.

    A header may give no length (a FLAC written to a pipe), guess it (MP3) or be damaged: then the
    samples are counted by decoding, block by block.
    """
    if file.format not in _UNSURE and file.frames <= 8 * path.stat().st_size:
        return file.frames
    # A failed seek leaves a decoder unusable, so each attempt opens the file again.
    with suppress(sf.LibsndfileError), _SoundFile(_name(path)) as probe:
        probe.seek(probe.frames - 1)
        if len(probe.read(1)):
            return probe.frames
    with _SoundFile(_name(path)) as decoded:
        try:
            counted = sum(map(len, _blocks(decoded)))
        except sf.LibsndfileError:  # cut or damaged: windows before that place can be read
            return min(file.frames, _MOST_CUT * decoded.tell())
    if file.frames != _UNKNOWN and file.format not in _GUESSING:
        _logger.warning("%s: %d of %d samples can be read", path, counted, file.frames)
    return counted


def _blocks(file: _SoundFile) -> Iterator[np.ndarray]:
    """The rest of a file, (samples, channels) at a time, whatever length its header says."""
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


def _read_from(path: Path, file: _SoundFile, begin: int, frames: int) -> np.ndarray:
    """(channels, samples) from `begin` on, as many as there are: none where seeking fails."""
    try:
        file.seek(begin)
    except sf.LibsndfileError:  # beyond the end of a file that was cut
        return np.zeros((file.channels, 0), dtype=np.float32)
    return _read(path, file, frames)


def _read(path: Path, file: _SoundFile, frames: int) -> np.ndarray:
    """The next samples as (channels, samples), every one of them a number."""
    audio = file.read(frames, dtype="float32", always_2d=True)
    if not np.isfinite(audio).all():
        raise AudioError(f"{int((~np.isfinite(audio)).sum())} samples are NaN or infinite", path)
    return np.ascontiguousarray(audio.T)


def _check_peak(path: Path, audio: np.ndarray) -> None:
    peak = float(np.abs(audio).max()) if audio.size else 0.0
    if peak > _LOUDEST:
        raise AudioError(f"a peak of {peak:.4g}, where full scale is 1", path)


def _write(path: Path, audio: np.ndarray, sample_rate: int, kind: str, subtype: str) -> Path:
    try:
        with written_whole(path) as partial:
            name = _name(partial)
            with sf.SoundFile(name, "w", sample_rate, len(audio), subtype, format=kind) as file:
                for start in range(0, audio.shape[1], _BLOCK):
                    file.write(np.ascontiguousarray(audio[:, start : start + _BLOCK].T))
            if kind == "WAV":
                _remove_date(partial)
    except sf.LibsndfileError as error:
        free = disk_usage(path.parent).free  # libsndfile calls a full disk a system error
        reason = (
            f"{error.error_string.rstrip('.')}, writing {audio.nbytes} bytes of audio "
            f"where {free} bytes are free"
        )
        raise OSError(errno.EIO, reason, str(path)) from error
    return path


def _remove_date(wav: Path) -> None:
    """libsndfile notes the time of writing beside the peak: the same audio, the same bytes."""
    with wav.open("r+b") as file:
        place = file.read(256).find(b"PEAK")  # then size, version and time, 4 bytes each
        if place >= 0:
            file.seek(place + 12)
            file.write(bytes(4))


def write_cached(path: Path, audio: np.ndarray) -> None:
    """Keep (channels, samples) in 16 bits, relative to their peak, whole or not at all."""
    scale = (float(np.abs(audio).max()) or 1.0) / _FULL
    samples = np.round(audio / np.float32(scale)).astype(np.int16)
    write_file(path, save({"audio": samples}, {"scale": repr(scale)}))


def is_cached(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a stem of (channels, samples) is kept there; a file that was cut off is not."""
    try:
        with safe_open(path, "np") as file:
            return tuple(file.get_slice("audio").get_shape()) == shape
    except (SafetensorError, OSError):
        return False


def _read_cached(path: Path, start: int, frames: int) -> np.ndarray:
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


def has_pyav() -> bool:
    """Whether the optional package is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def stream_infos(path: Path) -> list[tuple[int, int]]:
    """(sample rate, samples) of every audio stream; cover art and other streams do not count."""
    with _open_container(path) as container:
        return [_stream_info(path, stream) for stream in container.streams.audio]


def _is_container(path: Path) -> bool:
    return path.suffix.lower() in CONTAINERS


def _read_stream(path: Path, start: int, frames: int, stream: int) -> np.ndarray:
    """A window of one audio stream, from the whole stream decoded; sample 0 is after the delay.

    AAC's noise substitution leaves some of it to the decoder's noise generator, which differs
    every time.
    """
    with _open_container(path) as container:
        source = _stream(path, container, stream)
        rate, total = _stream_info(path, source)
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
def _open_container(path: Path) -> Iterator["av.container.InputContainer"]:
    """A file to decode from; whatever PyAV cannot do with it raises AudioError."""
    try:
        import av
    except ImportError as error:
        raise AudioError(MISSING_PYAV, path) from error
    try:
        check_regular(path)
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


def _stream_info(path: Path, stream: "av.AudioStream") -> tuple[int, int]:
    rate = stream.codec_context.sample_rate
    if not stream.duration or not rate or stream.time_base is None:
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

    if stream.time_base is None:
        raise AudioError("a stream without times", path)
    if first > _PRE_ROLL:  # else from the start: a seek to there would lose the first frame
        offset = int((first - _PRE_ROLL) / rate / stream.time_base)
        container.seek(offset, stream=stream, backward=True)
    to_float = av.AudioResampler(format="fltp")
    for packet_frame in container.decode(stream):
        base = packet_frame.time_base
        if packet_frame.sample_rate != rate or packet_frame.pts is None or base is None:
            raise AudioError(f"a stream of changing rate, or without times ({rate} Hz)", path)
        for frame in to_float.resample(packet_frame):
            audio = frame.to_ndarray()
            if not np.isfinite(audio).all():
                raise AudioError("samples are NaN or infinite", path)
            yield round(packet_frame.pts * base * rate), audio
