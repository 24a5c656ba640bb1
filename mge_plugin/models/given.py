"""Given tracks: clean latents that the network sees as they are while the others are denoised.

The network learned with a given track clean (t = 0), so it is put in before every call, inside of
the call: then every sampler does adaptive-timestep inpainting (paper, algorithm 2) as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mge_plugin.noise import Objective, per_track
from mge_plugin.tracks import NUM_TRACKS, Track


@dataclass(frozen=True)
class Given:
    """`latents` (b, k, c, n), read only where `mask` (b, k) is 1."""

    latents: Tensor
    mask: Tensor

    @classmethod
    def track(cls, track: Track, latents: Tensor) -> "Given":
        """Give one track's latents (b, c, n) to every item of a batch."""
        mask = torch.zeros(latents.shape[0], NUM_TRACKS, device=latents.device)
        mask[:, track] = 1.0
        return cls(latents[:, None].repeat(1, NUM_TRACKS, 1, 1), mask)

    def to(self, device: torch.device | str) -> "Given":
        """The same on another device."""
        return Given(self.latents.to(device), self.mask.to(device))

    def type(self, dtype: torch.dtype) -> "Given":
        """The same in another precision; SAT asks this of every conditioning input."""
        return Given(self.latents.type(dtype), self.mask)

    def insert(self, x: Tensor) -> Tensor:
        """Put the given tracks into `x` (b, k, c, n)."""
        return torch.where(per_track(self.mask) > 0, self.latents.to(x.dtype), x)

    def levels(self, t: Tensor) -> Tensor:
        """The levels (b, k) that the network is told: 0 where a track is given."""
        return t * (1 - self.mask)

    def predict(self, x: Tensor, prediction: Tensor, t: Tensor, objective: Objective) -> Tensor:
        """Replace a given track's prediction by the one that leads a sampler to its latents."""
        to_given = objective.towards(self.latents, x, per_track(t))
        return torch.where(per_track(self.mask) > 0, to_given.to(prediction.dtype), prediction)
