"""Check audio before it is shown, and encode it for a browser."""

from __future__ import annotations

import io

import numpy as np
import soundfile

MAX_CHANNELS = 8  # FLAC holds no more
FULL_SCALE = 32768  # 16-bit steps from 0 to 1


def checked_audio(audio: np.ndarray, name: str = "audio") -> np.ndarray:
    """Return `audio`, (channels, samples) or (samples,), as finite float32 (channels, samples)."""
    channels_first = np.atleast_2d(np.asarray(audio))
    if not np.issubdtype(channels_first.dtype, np.floating):
        raise ValueError(f"{name}: dtype is {channels_first.dtype}, expected floats in -1..1")
    if channels_first.ndim != 2 or channels_first.size == 0:
        raise ValueError(
            f"{name}: shape is {np.shape(audio)}, expected (channels, samples), 1 or more each"
        )
    if len(channels_first) > MAX_CHANNELS:
        raise ValueError(
            f"{name}: {len(channels_first)} channels, expected {MAX_CHANNELS} or fewer; "
            "is the audio (samples, channels)?"
        )
    channels_first = channels_first.astype(np.float32)
    _check_finite(channels_first, name)
    return channels_first


def checked_sample_rate(sample_rate: int, name: str = "audio") -> int:
    """Return `sample_rate` (Hz) as an int."""
    if sample_rate != int(sample_rate) or sample_rate < 1:
        raise ValueError(f"{name}: sample rate is {sample_rate}, expected a whole number of Hz")
    return int(sample_rate)


def encode_flac(audio: np.ndarray, sample_rate: int) -> tuple[bytes, float]:
    """Encode `audio` (channels, samples) as 16-bit FLAC at its own level.

    Only audio over full scale is turned down, just as far as needed. Returns the file and the
    gain (at most 1.0) that was applied.
    """
    gain = 1.0 / max(1.0, float(np.abs(audio).max()))
    steps = np.rint(audio.astype(np.float64) * gain * FULL_SCALE)
    steps = np.clip(steps, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps.T, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue(), gain


def _check_finite(audio: np.ndarray, name: str) -> None:
    bad = np.argwhere(~np.isfinite(audio))
    if len(bad):
        channel, sample = bad[0]
        raise ValueError(
            f"{name}: {len(bad)} of {audio.size} values are not finite, the first is "
            f"{audio[channel, sample]} at channel {channel}, sample {sample}"
        )
