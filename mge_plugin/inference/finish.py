"""From the model's tracks to audio of the song's own form: gate, refine, splice.

The model works on narrow-band, often mono audio. `refine` uses its estimates only to decide how
much of the song at each time and frequency belongs to which part. As a soft mask on the song itself
(a multichannel Wiener filter) that gives sources in stereo, full-band and in phase:

    magnitude[j] = |STFT of source j|                      mean over its channels
    magnitude[rest] = max(0, |STFT of rest j| - magnitude of the other sources), mean over j
    source[j] = magnitude[j] R[j] (sum_k magnitude[k] R[k])^-1 STFT of the song
                                 R[j]: covariance over channels where part j dominates

(Duong, Vincent, Gribonval 2010.) Magnitudes stand where exact estimates would have powers (Liutkus,
Badeau 2015): an uncertain estimate is followed less far. Above the model's band the filter is
continued: each part keeps its place in the stereo image and, frame by frame, its share of the
band's top octave.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length, resample, to_channels
from mge_plugin.inference.request import Keep
from mge_plugin.inference.windows import Windows

_FFT_SECONDS = 0.0464  # of a frame: 2048 samples at 44.1 kHz
_BLOCK_SECONDS = 20.0  # filtered at a time, so that memory does not grow with the song
_MARGIN_SECONDS = 0.05  # around a block that is resampled: more than the resampler's filter
_BAND = 0.9  # of the model's Nyquist frequency: above it the resampler attenuates
_EPS = 1e-10
_DOMINANCE = 8  # exponent of a part's share: how much it must outweigh to be placed
_SPLICE_SECONDS = 0.02  # cross-fade from what is kept to what is generated again


def refine(
    mixture: np.ndarray,
    sample_rate: int,
    sources: Sequence[np.ndarray],
    rests: Sequence[np.ndarray],
    model_rate: int,
    progress: Callable[[], None] | None = None,
) -> list[np.ndarray]:
    """Filter `mixture` (channels, samples) into sources of its form.

    `sources` and `rests` (channels, samples) at `model_rate` are estimates of each source, and of
    the mixture without it; their phases need not fit the mixture's. A silent estimate gives zeros.
    `progress` is called after each of `refine_blocks`.
    """
    windows = _blocks(mixture.shape[1], sample_rate)
    frame = 2 ** max(6, round(np.log2(_FFT_SECONDS * sample_rate)))
    band = _BAND * min(model_rate, sample_rate) / sample_rate  # of the mixture's own Nyquist
    refined = [np.zeros_like(mixture) for _ in sources]
    for number, start in enumerate(windows.starts):
        guides = (_cut(e, model_rate, sample_rate, start, windows.size) for e in (*sources, *rests))
        block = torch.from_numpy(fit_length(mixture[:, start:], windows.size))
        parts = _refine_block(block, [torch.from_numpy(g) for g in guides], frame, band)
        fade = windows.fade(number).numpy()
        for source, part in zip(refined, parts, strict=True):
            kept = source[:, start : start + windows.size]
            kept += (part.numpy() * fade)[:, : kept.shape[1]]
        if progress is not None:
            progress()
    return refined


def refine_blocks(samples: int, sample_rate: int) -> int:
    """How many blocks `refine` works through."""
    return len(_blocks(samples, sample_rate).starts)


def _blocks(samples: int, sample_rate: int) -> Windows:
    return Windows.cover(samples, min(samples, round(_BLOCK_SECONDS * sample_rate)))


def _cut(audio: np.ndarray, rate: int, new_rate: int, start: int, size: int) -> np.ndarray:
    """Samples [start, start + size) of `audio` at the new rate, without resampling the rest."""
    if rate == new_rate:
        return fit_length(audio[:, start:], size)
    common = math.gcd(rate, new_rate)
    unit, new_unit = rate // common, new_rate // common  # samples that take the same time
    margin = math.ceil(_MARGIN_SECONDS * common)
    first = max(0, start // new_unit - margin)
    last = -(-(start + size) // new_unit) + margin
    piece = resample(audio[:, first * unit : last * unit], rate, new_rate)
    return fit_length(piece[:, start - first * new_unit :], size)


def _refine_block(mixture: Tensor, guides: list[Tensor], frame: int, band: float) -> list[Tensor]:
    """The sources of one block of the mixture (channels, samples); guides are sources, rests."""
    x = _stft(mixture, frame)
    magnitudes = torch.stack([_stft(guide, frame).abs().mean(dim=0) for guide in guides])
    magnitudes = _with_rest(*magnitudes.chunk(2))
    unclaimed = magnitudes.sum(dim=0) == 0  # belongs to the rest
    magnitudes[-1] += _EPS * unclaimed
    edge = round(band * (x.shape[1] - 1))
    magnitudes = _continue(magnitudes, x, edge)
    return [_istft(part, frame, mixture.shape[-1]) for part in _wiener(x, magnitudes, edge)]


def _with_rest(sources: Tensor, rests: Tensor) -> Tensor:
    """Magnitudes of the sources, and of the rest: each mixture without one, less the others."""
    others = sources.sum(dim=0) - sources
    rest = (rests - others).clamp_min(0).mean(dim=0)
    return torch.cat([sources, rest[None]])


def _continue(magnitudes: Tensor, x: Tensor, edge: int) -> Tensor:
    """Magnitudes (part, f, t), above bin `edge` shares of the mixture's as in the octave below."""
    if edge >= magnitudes.shape[1] - 1:
        return magnitudes
    octave = magnitudes[:, edge // 2 : edge].sum(dim=1)
    shares = octave / octave.sum(dim=0).clamp_min(_EPS)
    shares[-1] += (octave.sum(dim=0) < _EPS).to(shares)
    magnitudes = magnitudes.clone()
    magnitudes[:, edge:] = shares[:, None] * x[:, edge:].abs().mean(dim=0)
    return magnitudes


def _wiener(x: Tensor, magnitudes: Tensor, edge: int) -> list[Tensor]:
    """Sources (channel, f, t) of `x` from magnitudes (part, f, t) of all parts, the rest last."""
    shares = magnitudes / magnitudes.sum(dim=0).clamp_min(_EPS**2)
    if x.shape[0] == 1:  # one channel has no places to tell parts apart by
        return [share * x for share in shares[:-1]]
    return _multichannel(x, magnitudes, _places(x, shares, edge))


def _places(x: Tensor, shares: Tensor, edge: int) -> Tensor:
    """Each part's covariance over channels, of unit power: (f, part, channel, channel)."""
    channels = x.shape[0]
    spectrum = x.permute(1, 2, 0)  # (f, t, channel)
    outer = spectrum[..., :, None] * spectrum[..., None, :].conj()
    weights = (shares**_DOMINANCE).permute(1, 0, 2)  # (f, part, t)
    sums = weights @ torch.view_as_real(outer).flatten(2)
    places = torch.view_as_complex(sums.unflatten(2, (channels, channels, 2)))
    places[edge:] = places[edge // 2 : edge].sum(dim=0)
    return places / (places.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1)[..., None, None] + _EPS)


def _multichannel(x: Tensor, magnitudes: Tensor, places: Tensor) -> list[Tensor]:
    """The filter itself; its parts sum to `x`, but for a small regularisation."""
    channels = x.shape[0]
    flat = torch.view_as_real(places).flatten(2)  # (f, part, 2 * channel^2)
    sums = (magnitudes.permute(1, 2, 0) @ flat).unflatten(2, (channels, channels, 2))
    covariance = torch.view_as_complex(sums)  # (f, t, channel, channel)
    loading = covariance.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1) * 1e-3 + _EPS
    covariance.diagonal(dim1=-2, dim2=-1).add_(loading[..., None])
    whitened = _solve(covariance, x.permute(1, 2, 0))  # (f, t, channel)
    return [
        magnitudes[j] * (whitened @ places[:, j].mT).permute(2, 0, 1)
        for j in range(len(magnitudes) - 1)
    ]


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix^-1 vector, (..., c, c) and (..., c); in closed form for two channels, where it is 5
    times faster."""
    if vector.shape[-1] != 2:
        return torch.linalg.solve(matrix, vector)
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    x, y = vector.unbind(-1)
    return torch.stack([d * x - b * y, a * y - c * x], dim=-1) / (a * d - b * c)[..., None]


def _stft(audio: Tensor, frame: int) -> Tensor:
    """(channel, samples) to (channel, f, t)."""
    window = torch.hann_window(frame)
    return torch.stft(
        audio, frame, frame // 4, window=window, return_complex=True, pad_mode="constant"
    )


def _istft(spectrum: Tensor, frame: int, length: int) -> Tensor:
    window = torch.hann_window(frame)
    return torch.istft(spectrum, frame, frame // 4, window=window, length=length)


def gate(audio: np.ndarray, windows: Windows, ratio: int, is_open: Sequence[bool]) -> np.ndarray:
    """Silence (channels, samples) in the windows that are not open, with cross-fades."""
    opened = torch.tensor([float(o) for o in is_open])
    size = windows.size * ratio
    weights = windows.join(opened[:, None, None].expand(-1, 1, size), ratio)
    return audio * weights.numpy()[:, : audio.shape[1]]


def splice(keep: Keep | None, audio: np.ndarray) -> np.ndarray:
    """The kept track, and `audio` (channels, samples) in its spans to redo."""
    if keep is None:
        return audio
    redone = spans(keep.redo, audio.shape[1], keep.audio.sample_rate)
    kept = to_channels(keep.audio.samples, len(audio))
    return np.where(redone > 0, kept + redone * (audio - kept), kept).astype(np.float32)


def spans(redo: Sequence[tuple[float, float]], samples: int, sample_rate: int) -> np.ndarray:
    """1 inside the spans (seconds), 0 outside, a short rise and fall inside; (samples,)."""
    time = np.arange(samples) / sample_rate
    inside = np.zeros(samples)
    for start, end in redo:
        edge = np.minimum(time - start, end - time) / min(_SPLICE_SECONDS, (end - start) / 2)
        inside = np.maximum(inside, np.clip(edge, 0.0, 1.0))
    return inside.astype(np.float32)
