"""Audio as CLAP takes it: mono, 48 kHz, 10 seconds, in 16-bit steps.

Audio up to 10 s is repeated as often as it fits and then padded with zeros, as laion-clap does.
Longer audio becomes as few windows of 10 s as leave out half a second at most, evenly spread from
its start to its end; one window is its start. The mean of their embeddings stands for all.
laion-clap's random 10 s would be others at every call.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import resample

SAMPLE_RATE = 48_000  # Hz
WINDOW = 480_000  # samples
LEFT_OUT = 24_000  # samples at most: the paper's 10.24 s are one window, not two
INT16_MAX = 32_767.0
# librosa's kaiser_best in torchaudio's terms: what is above the audio's own band is 60 dB lower,
# where torchaudio's defaults leave 20 dB.
_resample = functools.partial(
    resample,
    lowpass_filter_width=64,
    rolloff=0.9475937167399596,
    resampling_method="sinc_interp_kaiser",
    beta=14.769656459379492,
)


def prepare(examples: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """Of each example (audio, sample rate) its windows (window, WINDOW), float32.

    Audio is (channels, samples) or (samples,). Examples alike in length and rate go together.
    """
    monos = [_mono(audio) for audio, _ in examples]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (mono, (_, rate)) in enumerate(zip(monos, examples, strict=True)):
        alike.setdefault((len(mono), rate), []).append(place)
    prepared = {}
    for (_, rate), places in alike.items():
        batch = torch.stack([monos[place] for place in places])
        if not batch.isfinite().all():
            raise ValueError("CLAP: an audio example has NaN or infinite samples")
        windows = _quantised(_windows(_resample(batch, rate, SAMPLE_RATE)))
        prepared |= dict(zip(places, windows, strict=True))
    return [prepared[place] for place in range(len(examples))]


def _mono(audio: Tensor) -> Tensor:
    if not audio.numel():
        raise ValueError("CLAP: an audio example has no samples")
    return audio.float().mean(dim=0) if audio.ndim == 2 else audio.float()


def _windows(monos: Tensor) -> Tensor:
    """(b, samples) to (b, window, WINDOW)."""
    spare = monos.shape[1] - WINDOW
    if spare <= 0:
        repeated = monos.repeat(1, WINDOW // monos.shape[1])
        return F.pad(repeated, (0, WINDOW - repeated.shape[1]))[:, None]
    count = 1 + max(0, math.ceil((spare - LEFT_OUT) / WINDOW))
    starts = [round(i * spare / max(1, count - 1)) for i in range(count)]
    return torch.stack([monos[:, start : start + WINDOW] for start in starts], dim=1)


def _quantised(audio: Tensor) -> Tensor:
    """Rounded towards zero to 16 bits: CLAP was trained on such audio."""
    return (audio.clamp(-1.0, 1.0) * INT16_MAX).trunc() / INT16_MAX
