"""Files of decoded stems, as `mge_plugin.data.cache` writes them."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mge_plugin.data.errors import AudioError
from mge_plugin.files import write_file

SUFFIX = ".stem.safetensors"
FULL = 32767  # of 16 bits


def is_cached(path: Path) -> bool:
    """Whether a file is one of a cache."""
    return path.name.endswith(SUFFIX)


def write_cached(path: Path, audio: np.ndarray) -> None:
    """Keep (channels, samples) in 16 bits, in relation to their peak, whole or not at all."""
    scale = (float(np.abs(audio).max()) or 1.0) / FULL
    samples = np.round(audio / np.float32(scale)).astype(np.int16)
    write_file(path, save({"audio": samples}, {"scale": repr(scale)}))


def is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a stem of (channels, samples) is kept there; a file that a crash cut off is none."""
    try:
        with safe_open(path, "np") as file:
            return tuple(file.get_slice("audio").get_shape()) == shape
    except (SafetensorError, OSError):
        return False


def read_cached(path: Path, start: int, frames: int) -> np.ndarray:
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
