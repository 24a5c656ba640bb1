"""What a stem goes through on its way to a real mix: equalizer, drive and a room."""

from __future__ import annotations

import numpy as np

BANDS = 3  # of the equalizer
BAND_FREQUENCIES = (80.0, 7000.0)  # Hz, logarithmically uniform
BAND_GAIN = 4.0  # dB, standard deviation
DRIVE_SHARE = 0.35  # share of stems that are driven
DRIVE = (-6.0, 12.0)  # dB of a peak above the knee
REVERB_SHARE = 0.6  # share of stems with a room
REVERB_SECONDS = (0.2, 1.0)  # until the room has decayed by 60 dB
REVERB_LEVEL = (-24.0, -8.0)  # dB of the room against the stem


def add_effects(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mono float32 `audio` (samples,) through an equalizer, drive and a room, drawn from `rng`."""
    audio = _equalize(audio, rate, rng)
    if rng.random() < DRIVE_SHARE:
        audio = _drive(audio, rng)
    if rng.random() < REVERB_SHARE:
        audio = _add_room(audio, rate, rng)
    return audio.astype(np.float32)


def _equalize(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Peaking filters with bandwidths from half an octave to three."""
    from scipy.signal import sosfilt  # a second to import, so only where it is used

    low, high = np.log(BAND_FREQUENCIES)
    sections = [
        _peak(np.exp(rng.uniform(low, high)), BAND_GAIN * rng.normal(), rng.uniform(0.4, 2.0), rate)
        for _ in range(BANDS)
    ]
    return sosfilt(np.array(sections), audio)


def _peak(frequency: float, gain: float, quality: float, rate: int) -> list[float]:
    """A peak of `gain` dB at `frequency` Hz, a second-order section by the bilinear transform."""
    a, omega = 10.0 ** (gain / 40.0), 2.0 * np.pi * frequency / rate
    alpha, cos = np.sin(omega) / (2.0 * quality), np.cos(omega)
    numerator = [1.0 + alpha * a, -2.0 * cos, 1.0 - alpha * a]
    denominator = [1.0 + alpha / a, -2.0 * cos, 1.0 - alpha / a]
    return [value / denominator[0] for value in (*numerator, *denominator)]


def _drive(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A soft limiter whose knee is that far below the peak."""
    peak = np.abs(audio).max()
    knee = max(peak, 1e-9) * 10.0 ** (-rng.uniform(*DRIVE) / 20.0)
    return knee * np.tanh(audio / knee)


def _add_room(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Decaying noise as the room's response, at a level against the dry sound."""
    from scipy.signal import oaconvolve

    seconds = rng.uniform(*REVERB_SECONDS)
    level = 10.0 ** (rng.uniform(*REVERB_LEVEL) / 20.0)
    time = np.arange(round(seconds * rate)) / rate
    response = rng.normal(size=len(time)) * 10.0 ** (-3.0 * time / seconds)
    response *= level / np.sqrt(np.square(response).sum())
    return audio + oaconvolve(audio, response)[: len(audio)]
