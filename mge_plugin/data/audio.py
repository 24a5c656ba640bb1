"""Audio files in and out, always float32 (channels, samples), always through soundfile."""

import io
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from mge_plugin.files import write_file


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says what is wrong."""


def audio_info(path: Path) -> tuple[int, int]:
    """Sample rate and number of frames from the header."""
    try:
        info = sf.info(str(path))
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: not readable as audio ({_reason(path, error)})") from error
    if info.frames == 0:
        raise AudioError(f"{path}: the header says 0 samples ({path.stat().st_size} bytes)")
    return info.samplerate, info.frames


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """A whole file as (channels, samples) and its sample rate; NaN or Inf samples raise."""
    try:
        audio, sample_rate = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: not readable as audio ({_reason(path, error)})") from error
    if not len(audio):
        raise AudioError(f"{path}: holds no samples ({path.stat().st_size} bytes)")
    return _finite(path, audio), sample_rate


def read_window(path: Path, start: int, frames: int) -> np.ndarray:
    """Samples [start, start + frames) by seeking, zeros outside of the file; (channels, frames)."""
    try:
        with sf.SoundFile(str(path)) as file:
            begin, end = np.clip([start, start + frames], 0, file.frames)
            file.seek(int(begin))
            audio = file.read(int(end - begin), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: not readable as audio ({_reason(path, error)})") from error
    if len(audio) < end - begin:
        raise AudioError(f"{path}: {end - begin} samples expected at {begin}, read {len(audio)}")
    window = np.zeros((audio.shape[1], frames), dtype=np.float32)
    window[:, begin - start : end - start] = _finite(path, audio)
    return window


def write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """Write (channels, samples) as a float32 WAV, whole or not at all."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, sample_rate, subtype="FLOAT", format="WAV")
    return write_file(path, buffer.getbuffer())


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of (channels, samples); the length becomes ceil(n * new / old)."""
    if rate == new_rate:
        return audio
    length = -(-audio.shape[1] * new_rate // rate)
    return fit_length(soxr.resample(audio.T, rate, new_rate).T.astype(np.float32), length)


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with zeros at the end, to `length` samples."""
    audio = audio[:, :length]
    return np.pad(audio, ((0, 0), (0, length - audio.shape[1])))


def to_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    """(any, samples) to (channels, samples): the mean for mono, copies of a mono for more."""
    if audio.shape[0] == channels:
        return audio
    mono = audio.mean(axis=0, keepdims=True)
    if channels == 1 or audio.shape[0] == 1:
        return np.repeat(mono, channels, axis=0)
    return np.ascontiguousarray(audio[:channels]) if audio.shape[0] > channels else np.repeat(
        mono, channels, axis=0
    )


def rms_db(audio: np.ndarray) -> float:
    """Level over all channels in dBFS; -inf for silence."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * np.log10(power) if power > 0 else -np.inf


def _finite(path: Path, audio: np.ndarray) -> np.ndarray:
    """soundfile's (samples, channels) turned to (channels, samples) if every sample is a number."""
    if not np.isfinite(audio).all():
        bad = int((~np.isfinite(audio)).sum())
        raise AudioError(f"{path}: {bad} samples are NaN or infinite")
    return np.ascontiguousarray(audio.T)


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a folder"
    if path.stat().st_size == 0:
        return "the file is empty"
    return str(getattr(error, "error_string", error))
