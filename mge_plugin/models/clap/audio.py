"""Audio as CLAP takes it: mono, 48 kHz, 10 seconds, in 16-bit steps.

Audio up to 10 s is repeated as often as it fits and then padded with zeros, as laion-clap does.
Longer audio becomes windows of 10 s one after another, the last ending where the audio ends; the
mean of their embeddings stands for all. laion-clap's random 10 s would be others at every call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import resample

SAMPLE_RATE = 48_000  # Hz
WINDOW = 480_000  # samples
INT16_MAX = 32_767.0


def prepare(audio: Tensor, sample_rate: int) -> Tensor:
    """(channels, samples) or (samples,) at any rate to windows (window, WINDOW), float32."""
    mono = audio.float().mean(dim=0) if audio.ndim == 2 else audio.float()
    if not mono.numel():
        raise ValueError("CLAP: an audio example has no samples")
    if not mono.isfinite().all():
        raise ValueError("CLAP: an audio example has NaN or infinite samples")
    return _quantised(_windows(resample(mono, sample_rate, SAMPLE_RATE)))


def _windows(mono: Tensor) -> Tensor:
    length = len(mono)
    if length <= WINDOW:
        repeated = mono.repeat(WINDOW // length)
        return F.pad(repeated, (0, WINDOW - len(repeated)))[None]
    starts = [*range(0, length - WINDOW, WINDOW), length - WINDOW]
    return torch.stack([mono[start : start + WINDOW] for start in starts])


def _quantised(audio: Tensor) -> Tensor:
    """Rounded towards zero to 16 bits: CLAP was trained on such audio."""
    return (audio.clamp(-1.0, 1.0) * INT16_MAX).trunc() / INT16_MAX
