"""Sources at full quality: a soft mask on the original mixture (multichannel Wiener filter).

The model hears and makes narrow-band, often mono audio. Its estimates say how much of the mixture
at each time and frequency is whose; applied as a filter to the mixture itself, at its own rate and
channels, that gives sources in stereo, full-band and in phase, which sum to the mixture.

    power[j] = |STFT of estimate j|^2                      mean over its channels
    power[rest] = max(0, |STFT of rest j|^2 - power of the other sources), mean over j
    filter[j] = power[j] R[j] (sum_k power[k] R[k])^-1     R: where a source is, its covariance over
    source[j] = filter[j] x STFT of the mixture            channels, from where it dominates

(Duong, Vincent, Gribonval 2010.) Above the model's band both are continued: each source keeps its
place and, frame by frame, its share of the power in the highest octave of the band.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length, resample
from mge_plugin.inference.windows import Windows

FFT_SECONDS = 0.0464  # of a frame: 2048 samples at 44.1 kHz
BLOCK_SECONDS = 20.0  # filtered at a time, so that memory does not grow with the song
BAND = 0.9  # of the model's Nyquist frequency: above it resampling has taken something away
EPS = 1e-10
DOMINANCE = 8  # exponent of a source's share of the power: how much it must outweigh to be placed


def refine(
    mixture: np.ndarray,
    sample_rate: int,
    estimates: Sequence[np.ndarray],
    estimate_rate: int,
    rests: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Filter `mixture` (channels, samples) by estimates (their channels, theirs) of all its parts.

    The estimates, at `estimate_rate`, are of everything that is in the mixture (the last may be the
    residual). Or they are of some sources, and `rests` are of the mixture without each of them: the
    model makes both, and their phases need not fit the mixture's. Then there is a part more, the
    rest. The refined parts have the mixture's rate, channels and length, and sum to it. A part that
    is silent comes back as zeros; where every estimate is silent, the last takes the mixture.
    """
    if len(estimates) + bool(rests) < 2:
        raise ValueError(f"refine: expected 2 estimates or more, found {len(estimates)}")
    if rests and len(rests) != len(estimates):
        raise ValueError(f"refine: expected {len(estimates)} rests, found {len(rests)}")
    length = mixture.shape[1]
    guides = [*estimates, *rests]
    aligned = [fit_length(resample(e, estimate_rate, sample_rate), length) for e in guides]
    band = BAND * min(estimate_rate, sample_rate) / sample_rate  # of the mixture's own Nyquist
    windows = Windows.cover(length, min(length, round(BLOCK_SECONDS * sample_rate)))
    padded = [torch.from_numpy(fit_length(a, windows.padded_length)) for a in (mixture, *aligned)]
    signal, *guides = (windows.cut(a) for a in padded)
    frame = _frame_size(sample_rate)
    blocks = [
        _refine_block(block, [guide[i] for guide in guides], len(rests), frame, band)
        for i, block in enumerate(signal)
    ]
    refined = [windows.join(torch.stack(parts)).numpy() for parts in zip(*blocks, strict=True)]
    return _summing_to(mixture, refined)


def _frame_size(sample_rate: int) -> int:
    """A power of two."""
    return 2 ** max(6, round(np.log2(FFT_SECONDS * sample_rate)))


def _refine_block(
    mixture: Tensor, guides: list[Tensor], rests: int, frame: int, band: float
) -> list[Tensor]:
    """One block of the song; the mixture (channels, samples), guides (their channels, samples)."""
    x = _stft(mixture, frame)
    powers = torch.stack([_stft(guide, frame).abs().square().mean(dim=0) for guide in guides])
    if rests:
        powers = _with_rest(*powers.split(rests))
    powers[-1] += EPS * (powers.sum(dim=0) == 0)  # what nobody claims is the last one's
    edge = round(band * (x.shape[1] - 1))
    powers = _continue_powers(powers, x, edge)
    parts = _wiener(x, powers, edge)
    return [_istft(part, frame, mixture.shape[-1]) for part in parts]


def _with_rest(sources: Tensor, rests: Tensor) -> Tensor:
    """Powers of sources and of what is none of them: each rest without the other sources."""
    others = sources.sum(dim=0) - sources
    rest = (rests - others).clamp_min(0).mean(dim=0)
    return torch.cat([sources, rest[None]])


def _continue_powers(powers: Tensor, x: Tensor, edge: int) -> Tensor:
    """Powers (part, f, t), above bin `edge` shares of the mixture's as in the octave below."""
    if edge >= powers.shape[1] - 1:
        return powers
    octave = powers[:, edge // 2 : edge].sum(dim=1)
    shares = octave / octave.sum(dim=0).clamp_min(EPS)
    shares[-1] += (octave.sum(dim=0) < EPS).to(shares)
    powers = powers.clone()
    powers[:, edge:] = shares[:, None] * x[:, edge:].abs().square().mean(dim=0)
    return powers


def _wiener(x: Tensor, powers: Tensor, edge: int) -> Tensor:
    """Parts (part, channel, f, t) of `x` (channel, f, t) from their powers (part, f, t)."""
    shares = powers / powers.sum(dim=0).clamp_min(EPS**2)
    if x.shape[0] == 1:
        return shares[:, None] * x  # one channel has no places to tell parts apart by
    return _multichannel(x, powers, _places(x, shares, edge))


def _places(x: Tensor, shares: Tensor, edge: int) -> Tensor:
    """Each part's covariance over channels, of unit power: (part, f, channel, channel)."""
    weights = shares**DOMINANCE
    outer = torch.einsum("jft,cft,dft->jfcd", weights.to(x.dtype), x, x.conj())
    outer[:, edge:] = outer[:, edge // 2 : edge].sum(dim=1, keepdim=True)
    return outer / (outer.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1)[..., None, None] + EPS)


def _multichannel(x: Tensor, powers: Tensor, places: Tensor) -> Tensor:
    """The filter itself; it gives parts that sum to `x`, but for a small regularisation."""
    channels = x.shape[0]
    covariance = torch.einsum("jft,jfcd->ftcd", powers.to(places.dtype), places)
    loading = covariance.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1) * 1e-3 + EPS
    eye = torch.eye(channels, dtype=places.dtype)
    inverse = torch.linalg.inv(covariance + loading[..., None, None] * eye)
    whitened = torch.einsum("ftcd,dft->ftc", inverse, x)
    return torch.einsum("jft,jfcd,ftd->jcft", powers.to(places.dtype), places, whitened)


def _summing_to(mixture: np.ndarray, parts: list[np.ndarray]) -> list[np.ndarray]:
    """The last part takes what rounding and regularisation left over."""
    *others, _ = parts
    return [*others, mixture - sum(others)]


def _stft(audio: Tensor, frame: int) -> Tensor:
    """(channel, samples) to (channel, f, t)."""
    window = torch.hann_window(frame)
    return torch.stft(
        audio, frame, frame // 4, window=window, return_complex=True, pad_mode="constant"
    )


def _istft(spectrum: Tensor, frame: int, length: int) -> Tensor:
    window = torch.hann_window(frame)
    return torch.istft(spectrum, frame, frame // 4, window=window, length=length)
