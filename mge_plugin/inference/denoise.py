"""Latents from noise: the network with what is given and asked, run by a sampler.

A song of any length is one set of latents; the network sees it window by window, all windows of
all songs in the same batches, and where they overlap its predictions are joined before the sampler
takes its step. So the windows of a song agree at every step, and every sampler knows songs only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mge_plugin.inference.ddim import Callback, sample_ddim
from mge_plugin.inference.samplers import Method
from mge_plugin.inference.schedule import Start
from mge_plugin.inference.seeds import ItemNoise
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.tracks import pack, unpack


@dataclass(frozen=True)
class Conditions:
    """What a run asks and knows, of every item of its batch."""

    modulations: Tensor  # (depth, b, 6*k*w)
    given: Given | None = None
    negative: Tensor | None = None  # modulations to move away from
    guidance: Guidance = field(default_factory=Guidance)

    def options(self, rows: Tensor | None, part: slice = slice(None)) -> dict[str, Any]:
        """The network's options for rows (item numbers) of a batch, `given` apart."""
        chosen = {"modulations": self.modulations, "negative_modulations": self.negative}
        if rows is not None:
            chosen = {k: v if v is None else v[:, rows[part]] for k, v in chosen.items()}
        guidance = self.guidance
        return chosen | {
            "cfg_scale": guidance.cfg_scale,
            "cfg_interval": guidance.cfg_interval,
            "scale_phi": guidance.cfg_rescale,
            "apg_scale": guidance.apg_scale,
        }


class SongDenoiser:
    """What samplers call: predictions (b, k, c, n) of whole songs at levels `t` (b, k).

    All levels of a call are one. `batch` windows go through the network at a time.
    """

    def __init__(
        self, network: MGEDiffusion, conditions: Conditions, rows: WindowRows, batch: int
    ) -> None:
        self.network, self.rows = network, rows
        given = conditions.given
        given = None if given is None else given.map(lambda x: self._rows_of(x))
        self.parts = []
        for first in range(0, len(rows), batch):
            part = slice(first, first + batch)
            options = conditions.options(rows.item, part)
            options["given"] = None if given is None else given.map(lambda x, p=part: x[p])
            self.parts.append((part, options))

    def __call__(self, x: Tensor, t: Tensor, return_info: bool = False) -> Any:
        pieces = self.rows.cut(x)
        level = t[0, 0]
        sigma = self.network.objective.alpha_sigma(level)[1] if level.device.type == "cpu" else None
        level = level.to(x.device, non_blocking=True)
        made, away = torch.empty_like(pieces), torch.empty_like(pieces)
        for part, options in self.parts:
            piece = pieces[part]
            levels = level.expand(piece.shape[:2])
            out = self.network(pack(piece), levels, sigma=sigma, return_info=return_info, **options)
            prediction, info = out if return_info else (out, None)
            made[part] = unpack(prediction)  # copied: a CUDA graph writes its output again
            if return_info:
                away[part] = unpack(info["uncond_output"])
        joined = self.rows.join(made)
        return (joined, {"uncond_output": self.rows.join(away)}) if return_info else joined

    def _rows_of(self, tensor: Tensor) -> Tensor:
        """The rows of something by frame (b, ..., n), or by item (b, k)."""
        return tensor[self.rows.item] if tensor.ndim == 2 else self.rows.cut(tensor)


def denoise_songs(
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
    """Latents (b, k, c, padded_length) of songs, the `chosen` (item, window) pairs together."""
    first = noise.first()
    if not chosen:
        return torch.zeros_like(first)
    rows = WindowRows(windows, chosen, len(first), first.device)
    known = conditions.given
    if not method.clamps:
        conditions = Conditions(
            conditions.modulations, None, conditions.negative, conditions.guidance
        )
    denoiser = SongDenoiser(network, conditions, rows, batch)
    latents = method.run(denoiser, first, noise.fresh, callback, network.objective, known, start)
    return latents if known is None else known.insert(latents)


def denoise_tracks(
    network: MGEDiffusion,
    noise: Tensor,
    embeddings: Tensor,
    given: Given | None,
    schedule: Tensor,
    cfg_scale: float,
    callback: Callback | None = None,
    negative: Tensor | None = None,
) -> Tensor:
    """Latents (b, k, c, n) of windows from `noise` of that shape, by DDIM; no more than a batch.

    `embeddings` (b, k, d), and `negative` ones to move away from, are projected once for the whole
    run. Given tracks come back as they were.
    """
    away = None if negative is None else network.modulate(negative)
    conditions = Conditions(network.modulate(embeddings), given, away, Guidance(cfg_scale))
    options = conditions.options(None) | {"given": given}

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        sigma = network.objective.alpha_sigma(t)[1]
        return unpack(network(pack(x), t.to(x.device), sigma=sigma, **options))

    latents = sample_ddim(denoiser, noise, schedule, callback, network.objective)
    return latents if given is None else given.insert(latents)
