"""From the model's tracks to audio as the user gave it: gate, refine, rate, channels, length.

Sources at full quality: a soft mask on the original mixture (multichannel Wiener filter).

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

from mge_plugin.data.audio import fit_length, resample, to_channels
from mge_plugin.inference import presence
from mge_plugin.inference.denoiser import Engine
from mge_plugin.inference.request import TASKS, Result, Sampling, levels, plain, refines
from mge_plugin.inference.windows import Made, Song, Windows
from mge_plugin.tracks import Track

_FFT_SECONDS = 0.0464  # of a frame: 2048 samples at 44.1 kHz
_BLOCK_SECONDS = 20.0  # filtered at a time, so that memory does not grow with the song
_BAND = 0.9  # of the model's Nyquist frequency: above it resampling has taken something away
_EPS = 1e-10
_DOMINANCE = 8  # exponent of a source's share of the power: how much it must outweigh to be placed


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
    band = _BAND * min(estimate_rate, sample_rate) / sample_rate  # of the mixture's own Nyquist
    windows = Windows.cover(length, min(length, round(_BLOCK_SECONDS * sample_rate)))
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
    return 2 ** max(6, round(np.log2(_FFT_SECONDS * sample_rate)))


def _refine_block(
    mixture: Tensor, guides: list[Tensor], rests: int, frame: int, band: float
) -> list[Tensor]:
    """One block of the song; the mixture (channels, samples), guides (their channels, samples)."""
    x = _stft(mixture, frame)
    powers = torch.stack([_stft(guide, frame).abs().square().mean(dim=0) for guide in guides])
    if rests:
        powers = _with_rest(*powers.split(rests))
    powers[-1] += _EPS * (powers.sum(dim=0) == 0)  # what nobody claims is the last one's
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
    shares = octave / octave.sum(dim=0).clamp_min(_EPS)
    shares[-1] += (octave.sum(dim=0) < _EPS).to(shares)
    powers = powers.clone()
    powers[:, edge:] = shares[:, None] * x[:, edge:].abs().square().mean(dim=0)
    return powers


def _wiener(x: Tensor, powers: Tensor, edge: int) -> Tensor:
    """Parts (part, channel, f, t) of `x` (channel, f, t) from their powers (part, f, t)."""
    shares = powers / powers.sum(dim=0).clamp_min(_EPS**2)
    if x.shape[0] == 1:
        return shares[:, None] * x  # one channel has no places to tell parts apart by
    return _multichannel(x, powers, _places(x, shares, edge))


def _places(x: Tensor, shares: Tensor, edge: int) -> Tensor:
    """Each part's covariance over channels, of unit power: (part, f, channel, channel)."""
    weights = shares**_DOMINANCE
    outer = torch.einsum("jft,cft,dft->jfcd", weights.to(x.dtype), x, x.conj())
    outer[:, edge:] = outer[:, edge // 2 : edge].sum(dim=1, keepdim=True)
    return outer / (outer.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1)[..., None, None] + _EPS)


def _multichannel(x: Tensor, powers: Tensor, places: Tensor) -> Tensor:
    """The filter itself; it gives parts that sum to `x`, but for a small regularisation."""
    channels = x.shape[0]
    covariance = torch.einsum("jft,jfcd->ftcd", powers.to(places.dtype), places)
    loading = covariance.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1) * 1e-3 + _EPS
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


_SPLICE_SECONDS = 0.02  # crossfade from what is kept to what is made anew


class Mastering:
    """Turns what an engine made into results."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self.engine, self.channels = engine, channels
        self.sample_rate = engine.model.sample_rate

    def finish(self, song: Song, sampling: Sampling) -> Result:
        """The result of a request whose tracks are made."""
        finish = {
            "extract": self._extracted,
            "generate": self._generated,
            "accompany": self._accompanied,
        }.get(song.request.task, self._summed)
        return finish(song, sampling)

    def _generated(self, song: Song, sampling: Sampling) -> Result:
        (made,) = song.made
        mixture = self._spliced(song, self._at_rate(song, made.audio))
        return self._result(song, sampling, {"mixture": mixture}, {"mixture": made})

    def _accompanied(self, song: Song, sampling: Sampling) -> Result:
        """Silence is accompanied too."""
        (made,) = song.made
        submixture = self._spliced(song, self._at_rate(song, made.audio))
        audio = {"submixture": submixture, "mixture": song.request.audio + submixture}
        return self._result(song, sampling, audio, {"submixture": made})

    def _summed(self, song: Song, sampling: Sampling) -> Result:
        """Sources made in order, and their sum with what was given."""
        names = source_names(len(song.made))
        sources = [self._spliced(song, self._at_rate(song, made.audio)) for made in song.made]
        audio = dict(zip(names, sources, strict=True))
        given = song.request.audio
        audio["mixture"] = sum(sources) if given is None else given + sum(sources)
        return self._result(song, sampling, audio, dict(zip(names, song.made, strict=True)))

    def _extracted(self, song: Song, sampling: Sampling) -> Result:
        """Sources, gated and refined, and the residual, which sum to the mixture."""
        names, mixture = source_names(len(song.made)), song.request.audio
        gated = [self._gated(song, made, sampling) for made in song.made]
        rate, form = song.request.sample_rate, (self.sample_rate, self.channels)
        if refines(sampling, rate, len(mixture), form):
            rest = [
                self.engine.decode(m.latents[Track.SUBMIXTURE], song.samples) for m in song.made
            ]
            *sources, _ = refine(mixture, rate, gated, self.sample_rate, rest)
        else:
            sources = [self._at_rate(song, source) for source in gated]
        sounding = presence.sounding(mixture, rate)
        sources = [self._spliced(song, source) * sounding for source in sources]
        audio = dict(zip(names, sources, strict=True))
        audio["residual"] = mixture - sum(sources)
        return self._result(song, sampling, audio, dict(zip(names, song.made, strict=True)))

    def _gated(self, song: Song, made: Made, sampling: Sampling) -> np.ndarray:
        """The source, silent in the windows in which it is not present; scores go to its info."""
        windows = self.engine.windows(song.samples)
        pairs = [self.engine.by_window(audio) for audio in (made.audio, song.sum)]
        found = []
        for source, mixture in zip(*(p.numpy() for p in pairs), strict=True):
            similar = self.engine.similarity(TASKS["extract"], made.prompt, source)
            found.append(presence.presence(source, mixture, self.sample_rate, similar))
        best = max(found, key=lambda p: p.score)
        made.info["presence"] = best.described() | {
            "windows": [round(p.score, 4) for p in found],
            "threshold": sampling.gate_threshold if sampling.gate else None,
        }
        if not sampling.gate:
            return made.audio
        opened = torch.tensor([float(p.score >= sampling.gate_threshold) for p in found])
        size = windows.size * self.engine.ratio
        gate = windows.join(opened[:, None, None].expand(-1, 1, size), self.engine.ratio)
        return made.audio * gate.numpy()[:, : song.samples]

    def _at_rate(self, song: Song, audio: np.ndarray) -> np.ndarray:
        """At the rate, with the channels and the length of the request's audio, if it has any."""
        like = song.request.like
        if like is None:
            return audio
        audio = resample(audio, self.sample_rate, song.request.sample_rate)
        return to_channels(fit_length(audio, like.shape[1]), len(like))

    def _spliced(self, song: Song, audio: np.ndarray) -> np.ndarray:
        """What is kept of a track, and `audio` in the spans that were made anew."""
        keep = song.request.keep
        if keep is None:
            return audio
        anew = spans(keep.redo, audio.shape[1], song.request.sample_rate)
        kept = to_channels(keep.audio, len(audio))
        return np.where(anew > 0, kept + anew * (audio - kept), kept).astype(np.float32)

    def _result(
        self, song: Song, sampling: Sampling, audio: dict[str, np.ndarray], made: dict[str, Made]
    ) -> Result:
        request = song.request
        tracks = {name: levels(track) for name, track in audio.items()}
        for name, m in made.items():
            tracks[name] = {"prompt": plain(m.prompt)} | tracks[name] | m.info
        info = {
            "task": request.task,
            "seed": song.seed,
            "negative": plain(request.negative),
            "sampling": sampling.described(),
            "tracks": tracks,
        }
        if request.keep is not None:
            info["redo"] = [list(span) for span in request.keep.redo]
        latents = {
            name: m.latents[TASKS[request.task].prompted, :, : self.engine.frames_of(song.samples)]
            for name, m in made.items()
        }
        rate = self.sample_rate if request.like is None else request.sample_rate
        return Result(audio, rate, info, latents)


def source_names(count: int) -> list[str]:
    """`source`, or `source_1`, `source_2`, ..."""
    return ["source"] if count == 1 else [f"source_{i}" for i in range(1, count + 1)]


def spans(redo: Sequence[tuple[float, float]], samples: int, sample_rate: int) -> np.ndarray:
    """1 inside of the spans (seconds), 0 outside, a short rise and fall inside; (samples,)."""
    time = np.arange(samples) / sample_rate
    inside = np.zeros(samples)
    for start, end in redo:
        edge = np.minimum(time - start, end - time) / min(_SPLICE_SECONDS, (end - start) / 2)
        inside = np.maximum(inside, np.clip(edge, 0.0, 1.0))
    return inside.astype(np.float32)
