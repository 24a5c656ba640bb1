"""Integrated loudness of a mono signal, ITU-R BS.1770-4: K-weighting, blocks, two gates."""

from __future__ import annotations

import numpy as np

OFFSET = -0.691  # dB, BS.1770-4 eq. 2
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU below the mean of the blocks above the absolute gate
HOP = 0.1  # seconds between blocks
OVERLAP = 4  # a block is 4 hops: 400 ms


def k_weighting(rate: int) -> np.ndarray:
    """The two biquads of K-weighting at `rate` Hz as second-order sections, (2, 6)."""
    return np.array([_high_shelf(1500.0, 4.0, rate), _high_pass(38.0, rate)], dtype=np.float32)


def _high_shelf(frequency: float, gain: float, rate: int) -> list[float]:
    """Shelf of `gain` dB above `frequency` Hz, Q = 1/sqrt(2), by the bilinear transform."""
    a, omega = 10.0 ** (gain / 40.0), 2.0 * np.pi * frequency / rate
    cos, root = np.cos(omega), np.sqrt(2.0 * a) * np.sin(omega)
    b = [a * (a + 1 + (a - 1) * cos + root), -2 * a * (a - 1 + (a + 1) * cos)]
    b.append(a * (a + 1 + (a - 1) * cos - root))
    den = [a + 1 - (a - 1) * cos + root, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - root]
    return [value / den[0] for value in (*b, *den)]


def _high_pass(frequency: float, rate: int) -> list[float]:
    """High pass at `frequency` Hz, Q = 1/2, its numerator 1, -2, 1 as in the standard."""
    omega = 2.0 * np.pi * frequency / rate
    alpha = np.sin(omega)
    den = [1 + alpha, -2 * np.cos(omega), 1 - alpha]
    return [1.0, -2.0, 1.0, *(value / den[0] for value in den)]


def integrated_loudness(audio: np.ndarray, rate: int) -> float:
    """LUFS of mono `audio`, (samples,); -inf when every block is below the absolute gate."""
    return gated_loudness(block_powers(audio, rate))


def block_powers(audio: np.ndarray, rate: int) -> np.ndarray:
    """Mean square of each 400 ms block of K-weighted mono `audio`, (samples,) to (blocks,)."""
    from scipy.signal import sosfilt  # a second to import, so only where it is used

    hop = round(HOP * rate)
    weighted = sosfilt(k_weighting(rate), np.asarray(audio, dtype=np.float32))
    weighted = np.pad(weighted, (0, max(0, OVERLAP * hop - len(weighted))))
    hops = weighted[: len(weighted) // hop * hop].reshape(-1, hop)  # whole blocks only
    power = np.square(hops).mean(axis=1, dtype=np.float64)
    return np.convolve(power, np.full(OVERLAP, 1.0 / OVERLAP), mode="valid")


def gated_loudness(powers: np.ndarray) -> float:
    """LUFS of blocks of these powers. Not quite linear in level: one of the gates is absolute."""
    loud = powers[powers > _power(ABSOLUTE_GATE)]
    if not len(loud):
        return -np.inf
    gate = _power(_lufs(loud.mean()) + RELATIVE_GATE)
    return _lufs(loud[loud > gate].mean())


def _lufs(power: float) -> float:
    return float(OFFSET + 10.0 * np.log10(power))


def _power(lufs: float) -> float:
    return float(10.0 ** ((lufs - OFFSET) / 10.0))
