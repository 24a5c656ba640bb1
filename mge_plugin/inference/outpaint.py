"""Songs longer than the window, one window after another (what the paper's authors do).

Each window keeps the frames that it has in common with the one before. Slower than all windows
together, and a window does not know what comes; but it never averages, and needs little memory.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mge_plugin.inference.ddim import Callback
from mge_plugin.inference.denoise import Conditions, denoise_songs
from mge_plugin.inference.samplers import Method
from mge_plugin.inference.schedule import Start
from mge_plugin.inference.seeds import ItemNoise
from mge_plugin.inference.windows import Windows
from mge_plugin.models.given import Given
from mge_plugin.models.mge import MGEDiffusion


class _WindowNoise:
    """The frames of a song's noise that a window lies over."""

    def __init__(self, noise: ItemNoise, frames: slice, items: Tensor) -> None:
        self.noise, self.frames, self.items = noise, frames, items

    def first(self) -> Tensor:
        return self.noise.first()[self.items, ..., self.frames]

    def fresh(self, draw: int) -> Tensor:
        return self.noise.fresh(draw)[self.items, ..., self.frames]


def outpaint_songs(
    network: MGEDiffusion,
    noise: ItemNoise,
    conditions: Conditions,
    method: Method,
    windows: Windows,
    chosen: Sequence[tuple[int, int]],
    batch: int,
    callback: Callback | None = None,
    start: Start | None = None,
) -> Tensor:
    """As `denoise_songs`, window by window; the items of a batch together."""
    first = noise.first()
    latents, done = torch.zeros_like(first), first.new_zeros(len(first), len(windows.starts))
    for window, first_frame in enumerate(windows.starts):
        items = torch.tensor([item for item, w in chosen if w == window], device=first.device)
        if not len(items):
            continue
        frames = slice(first_frame, first_frame + windows.size)
        own = _WindowNoise(noise, frames, items)
        before = done[items, window - 1] if window else done.new_zeros(len(items))
        known = _known(conditions.given, items, frames, latents, before, windows.overlap, own)
        asked = replace(
            conditions,
            modulations=conditions.modulations[:, items],
            negative=None if conditions.negative is None else conditions.negative[:, items],
            given=known,
        )
        alone = Windows(windows.size, windows.size, windows.overlap)
        rows = [(row, 0) for row in range(len(items))]
        begin = start
        if start is not None:
            begin = Start(start.latents[items, ..., frames], start.level)
        made = denoise_songs(network, own, asked, method, alone, rows, batch, callback, begin)
        latents[items, ..., frames] = made
        done[items, window] = 1.0
    return latents


def _known(
    given: Given | None,
    items: Tensor,
    frames: slice,
    latents: Tensor,
    before: Tensor,
    overlap: int,
    noise: _WindowNoise,
) -> Given | None:
    """What a window knows: what is given or kept there, and the overlap with the one `before`."""
    made = latents[items, ..., frames]
    if given is None:
        cut = Given.nothing(made)
    else:
        cut = given.map(lambda x: x[items] if x.ndim == 2 else x[items, ..., frames])
    keep = torch.zeros_like(made[:, :, 0])
    keep[..., :overlap] = before[:, None, None]
    if cut.keep is not None:
        made = torch.where(cut.keep[:, :, None] > 0, cut.latents, made)
        keep = torch.maximum(keep, cut.keep)
    return cut.keeping(keep, made, noise.first()) if keep.any() else cut
