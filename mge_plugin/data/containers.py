"""Audio streams of MP4 files (.stem.mp4, .m4a), decoded by PyAV, which is an optional package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mge_plugin.data.errors import AudioError

if TYPE_CHECKING:
    import av

SUFFIXES = (".mp4", ".m4a")
PRE_ROLL = 8192  # samples decoded before a window: the first AAC frame after a seek is off
MISSING = "PyAV is needed to decode it: pip install 'mge-plugin[musdb]'"


def is_container(path: Path) -> bool:
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


def stream_info(path: Path, stream: int = 0) -> tuple[int, int]:
    """Sample rate and number of samples of one audio stream, by its number among these."""
    with _open(path) as container:
        return _info(path, _stream(path, container, stream))


def read_stream(path: Path, start: int, frames: int, stream: int = 0) -> np.ndarray:
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
