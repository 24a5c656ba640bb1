"""Given tracks, and frames to keep of tracks that are generated.

The network was trained with a given track clean (t = 0), so its latents replace that track inside
every call of the network: then every sampler does adaptive-timestep inpainting (paper, algorithm 2)
unchanged. Frames to keep belong to a track that has noise; they replace its frames at the track's
level, always with the same noise (paper, appendix B.1), so every sampler ends at their latents.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mge_plugin.models.noise import Objective, V, per_track
from mge_plugin.tracks import NUM_TRACKS, Track


@dataclass(frozen=True)
class Given:
    """`latents` (b, k, c, n), read where `mask` (b, k) or `keep` (b, k, n) is 1.

    `keep` needs `noise` (b, k, c, n), that of the kept frames.
    """

    latents: Tensor
    mask: Tensor
    keep: Tensor | None = None
    noise: Tensor | None = None

    @classmethod
    def track(cls, track: Track, latents: Tensor) -> "Given":
        """One track's latents (b, c, n), given for every item of a batch."""
        mask = torch.zeros(latents.shape[0], NUM_TRACKS, device=latents.device)
        mask[:, track] = 1.0
        return cls(latents[:, None].repeat(1, NUM_TRACKS, 1, 1), mask)

    @classmethod
    def nothing(cls, like: Tensor) -> "Given":
        """No given track, for a batch with the shape of `like` (b, k, c, n)."""
        return cls(torch.zeros_like(like), like.new_zeros(like.shape[:2]))

    def keeping(self, keep: Tensor, latents: Tensor, noise: Tensor) -> "Given":
        """Add frames to keep: `latents` where `keep` (b, k, n) is 1, in tracks not given."""
        keep = keep * (1 - self.mask[:, :, None])
        latents = torch.where(keep[:, :, None] > 0, latents, self.latents)
        return replace(self, latents=latents, keep=keep, noise=noise)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Given":
        """Apply `change` to every tensor."""
        keep, noise = (None if x is None else change(x) for x in (self.keep, self.noise))
        return Given(change(self.latents), change(self.mask), keep, noise)

    def to(self, device: torch.device | str) -> "Given":
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def type(self, dtype: torch.dtype) -> "Given":
        """The same in another precision; SAT casts every conditioning input."""
        noise = None if self.noise is None else self.noise.type(dtype)
        return replace(self, latents=self.latents.type(dtype), noise=noise)

    def insert(self, x: Tensor, t: Tensor | None = None, objective: Objective = V) -> Tensor:
        """Insert given tracks and kept frames into `x` (b, k, c, n); kept frames at `t` (b, k)."""
        latents = self.latents.to(x.dtype)
        x = torch.where(per_track(self.mask) > 0, latents, x)
        if self.keep is None:
            return x
        if t is not None and self.noise is not None:
            latents = objective.add_noise(latents, self.noise, per_track(t)).to(x.dtype)
        return torch.where(self.keep[:, :, None] > 0, latents, x)

    def levels(self, t: Tensor) -> Tensor:
        """The levels (b, k) for the network: 0 where a track is given."""
        return t * (1 - self.mask)

    def predict(self, x: Tensor, prediction: Tensor, t: Tensor, objective: Objective) -> Tensor:
        """Replace predictions so that given tracks and kept frames denoise to their latents."""
        to_given = objective.towards(self.latents, x, per_track(t)).to(prediction.dtype)
        known = per_track(self.mask) > 0
        if self.keep is not None:
            known = known | (self.keep[:, :, None] > 0)
        return torch.where(known, to_given, prediction)
