"""Files of decoded stems, as `mge_plugin.data.cache` writes them."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mge_plugin.data.errors import AudioError

SUFFIX = ".stem.safetensors"


def is_cached(path: Path) -> bool:
    """Whether a file is one of a cache."""
    return path.name.endswith(SUFFIX)


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
