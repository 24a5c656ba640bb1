"""The network as samplers call it, for songs of any length.

A song is one set of latents. The network sees it in windows, all windows of all songs in the same
batches, and where windows overlap its predictions are cross-faded before the sampler takes its
step. So the windows of a song agree at every step, and samplers know only whole songs. Or the
windows are sampled one after another, each with the frames that it shares with the one before kept
(the method of the paper's authors): slower, but nothing is averaged and less memory is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from mge_plugin.inference.request import Callback, Sampling
from mge_plugin.inference.sampling import ItemNoise, sample
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import NO_GUIDANCE, Guidance
from mge_plugin.models.mge import MGEDiffusion

_CALL = {"stage": "sample", "advance": 0}  # for the callback, in every call of the network
_STEP = {"stage": "sample", "advance": 1}


class Denoiser:
    """The network with conditioning, guidance and given tracks: x, t -> prediction (b, k, c, n).

    All levels `t` (b, k) of a call are the same. With `rows` x are whole songs, of which `batch`
    windows go through the network at a time. `modulations` and `negative` are (depth, b, 6*k*w).
    """

    def __init__(
        self,
        network: MGEDiffusion,
        modulations: Tensor,
        negative: Tensor | None = None,
        given: Given | None = None,
        guidance: Guidance = NO_GUIDANCE,
        rows: WindowRows | None = None,
        batch: int | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.network, self.guidance, self.rows, self.callback = network, guidance, rows, callback
        self.objective = network.objective
        count = modulations.shape[1]
        if rows is not None:
            count = len(rows)
            modulations = modulations[:, rows.item]
            negative = None if negative is None else negative[:, rows.item]
            given = None if given is None else given.map(rows.rows_of)
        self.parts = []
        for first in range(0, count, batch or count):
            part = slice(first, first + (batch or count))
            away = None if negative is None else negative[:, part]
            known = None if given is None else given.map(itemgetter(part))
            self.parts.append((part, modulations[:, part], away, known))

    def __call__(self, x: Tensor, t: Tensor, return_negative: bool = False) -> Any:
        pieces = x if self.rows is None else self.rows.cut(x)
        level = t[0, 0]
        sigma = self.objective.alpha_sigma(level)[1] if level.device.type == "cpu" else None
        made = torch.empty_like(pieces)
        negatives = torch.empty_like(pieces) if return_negative else None
        for part, modulations, away, given in self.parts:
            if self.callback is not None:
                self.callback(_CALL)
            piece = pieces[part]
            levels = _filled(piece, level)
            prediction, negative = self.network.predict(
                piece, levels, modulations, away, given, self.guidance, sigma
            )
            made[part] = prediction  # copied: a CUDA graph overwrites its output
            if negatives is not None:
                negatives[part] = negative
        joined = made if self.rows is None else self.rows.join(made)
        if negatives is None:
            return joined
        return joined, (negatives if self.rows is None else self.rows.join(negatives))


def _filled(piece: Tensor, level: Tensor) -> Tensor:
    """Levels (b, k) for a batch; a number on the CPU needs no copy to a GPU."""
    if level.device.type == "cpu":
        return torch.full(piece.shape[:2], level.item(), device=piece.device)
    return level.to(piece.device).expand(piece.shape[:2])


@dataclass(frozen=True)
class Batch:
    """Songs to denoise together: all that is given for them, one item per row."""

    noise: ItemNoise
    modulations: Tensor  # (depth, b, 6*k*w)
    windows: Windows  # of the longest song
    chosen: Sequence[tuple[int, int]]  # (item, window) pairs that are denoised
    given: Given | None = None
    negative: Tensor | None = None  # modulations
    init: tuple[Tensor, float] | None = None  # latents (b, k, c, n) to start from, and their level


def denoise(
    network: MGEDiffusion, batch: Batch, sampling: Sampling, callback: Callback | None = None
) -> Tensor:
    """Latents (b, k, c, padded length) of songs; zeros where no window is chosen."""
    run = _in_sequence if sampling.long_form == "sequential" else _together
    return run(network, batch, sampling, callback)


def _together(
    network: MGEDiffusion, batch: Batch, sampling: Sampling, callback: Callback | None
) -> Tensor:
    items, device = len(batch.noise.seeds), batch.modulations.device
    if not batch.chosen:
        noise = batch.noise
        return torch.zeros(items, noise.tracks, noise.channels, noise.frames, device=device)
    rows = WindowRows(batch.windows, batch.chosen, items, device)
    guidance = Guidance(
        sampling.cfg_scale, sampling.cfg_interval, sampling.cfg_rescale, sampling.apg_scale
    )
    clamped = None if sampling.sampler == "repaint" else batch.given
    denoiser = Denoiser(
        network,
        batch.modulations,
        batch.negative,
        clamped,
        guidance,
        rows,
        sampling.window_batch,
        callback,
    )
    latents = sample(
        sampling,
        denoiser,
        batch.noise,
        None if callback is None else lambda step: callback({**_STEP, **step}),
        network.objective,
        batch.given,
        batch.init,
    )
    return latents if batch.given is None else batch.given.insert(latents)


class _WindowNoise(ItemNoise):
    """The frames of some items' noise that a window covers."""

    def __init__(self, noise: ItemNoise, frames: slice, items: Sequence[int]) -> None:
        shape = (noise.tracks, noise.channels, noise.frames)
        super().__init__([noise.seeds[item] for item in items], shape, noise.device)
        self.window = frames

    def _draw(self, seeds: list[int]) -> Tensor:
        return super()._draw(seeds)[..., self.window]


def _in_sequence(
    network: MGEDiffusion, batch: Batch, sampling: Sampling, callback: Callback | None
) -> Tensor:
    """One window after another; those of all songs at one place together."""
    windows, noise = batch.windows, batch.noise
    shape = (len(noise.seeds), noise.tracks, noise.channels, noise.frames)
    latents = torch.zeros(shape, device=batch.modulations.device)
    done: set[tuple[int, int]] = set()
    for window, start in enumerate(windows.starts):
        items = [item for item, w in batch.chosen if w == window]
        if not items:
            continue
        frames = slice(start, start + windows.size)
        after = [float((item, window - 1) in done) for item in items]
        own = _WindowNoise(noise, frames, items)
        alone = replace(
            batch,
            noise=own,
            modulations=batch.modulations[:, items],
            windows=Windows(windows.size, windows.size, windows.overlap),
            chosen=[(row, 0) for row in range(len(items))],
            given=_with_overlap(batch.given, items, frames, latents, after, windows.overlap, own),
            negative=None if batch.negative is None else batch.negative[:, items],
            init=batch.init and (batch.init[0][items, ..., frames], batch.init[1]),
        )
        latents[items, ..., frames] = _together(network, alone, sampling, callback)
        done |= {(item, window) for item in items}
    return latents


def _with_overlap(
    given: Given | None,
    items: Sequence[int],
    frames: slice,
    latents: Tensor,
    after: Sequence[float],
    overlap: int,
    noise: ItemNoise,
) -> Given | None:
    """What is given in a window, and the overlap with the one before where `after` is 1."""
    made = latents[items, ..., frames]
    if given is None:
        cut = Given.nothing(made)
    else:
        cut = given.map(lambda x: x[items] if x.ndim == 2 else x[items, ..., frames])
    if not any(after) and cut.keep is None:
        return cut
    keep = torch.zeros_like(made[:, :, 0])
    keep[..., :overlap] = made.new_tensor(after)[:, None, None]
    if cut.keep is not None:
        made = torch.where(cut.keep[:, :, None] > 0, cut.latents, made)
        keep = torch.maximum(keep, cut.keep)
    return cut.keeping(keep, made, noise.first())
