"""Peak and RMS levels in dBFS: a full-scale sine has a peak of 0 and an RMS of -3.01."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .audio import checked_audio


@dataclass(frozen=True)
class Levels:
    peak_db: float  # dBFS of the largest sample, -inf for silence
    rms_db: float  # dBFS over all samples of all channels, -inf for silence


def measure_levels(audio: np.ndarray) -> Levels:
    """Measure `audio`, (channels, samples) or (samples,)."""
    samples = checked_audio(audio).astype(np.float64)
    rms = np.sqrt(np.mean(np.square(samples)))
    return Levels(peak_db=decibels(np.abs(samples).max()), rms_db=decibels(rms))


def decibels(amplitude: float) -> float:
    """Return `amplitude` (1.0 is full scale) in dB, -inf for 0."""
    return float(20 * np.log10(amplitude)) if amplitude > 0 else -np.inf
