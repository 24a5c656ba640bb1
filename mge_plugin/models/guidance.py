"""Classifier-free guidance (paper, sections 2.2 and E.3), with the options that SAT has."""

from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = 1e-8  # a constant output has no deviation to rescale, silence no direction to project on


@dataclass(frozen=True)
class Guidance:
    """How far to move from the negative prediction towards the prompted one."""

    cfg_scale: float | tuple[float, ...] = 1.0  # one for all, or mixture's, submixture's, source's
    cfg_interval: tuple[float, float] = (0.0, 1.0)  # noise shares (sigma) at which it acts
    cfg_rescale: float = 0.0  # share of the result that keeps the conditioned deviation
    apg_scale: float = 0.0  # share of the difference taken orthogonal to the denoised latents

    def acts(self, sigma: Tensor) -> bool:
        """Whether it changes anything at noise shares `sigma`; the largest counts, as in SAT."""
        scales = self.cfg_scale if isinstance(self.cfg_scale, tuple) else (self.cfg_scale,)
        if all(scale == 1.0 for scale in scales):
            return False
        lowest, highest = self.cfg_interval
        if (lowest, highest) == (0, 1):
            return True
        return bool(lowest <= sigma.max() <= highest)

    def apply(self, prompted: Tensor, away: Tensor, denoised: Tensor | None = None) -> Tensor:
        """Move from the prediction `away` towards `prompted`, and beyond; all (b, k, c, n).

        With `apg_scale` the move loses its part along `denoised`, the clean latents that `prompted`
        implies, track by track (arXiv 2410.02416). `cfg_rescale` mixes in the same result rescaled
        to the deviation of `prompted` over tracks and channels (arXiv 2305.08891, eqs. 15 and 16).
        """
        move = prompted - away
        if self.apg_scale and denoised is not None:
            move = move - self.apg_scale * along(move, denoised)
        guided = prompted + self._scaled(move)
        if not self.cfg_rescale:
            return guided
        target, found = (p.std(dim=(1, 2), keepdim=True) for p in (prompted, guided))
        rescaled = guided * (target / found.clamp_min(_EPS))
        return self.cfg_rescale * rescaled + (1 - self.cfg_rescale) * guided

    def _scaled(self, move: Tensor) -> Tensor:
        """The move (b, k, c, n) times scale - 1; plain numbers, which need no copy to a GPU."""
        if not isinstance(self.cfg_scale, tuple):
            return (self.cfg_scale - 1.0) * move
        tracks = zip(self.cfg_scale, move.unbind(dim=1), strict=True)
        return torch.stack([(scale - 1.0) * track for scale, track in tracks], dim=1)


NO_GUIDANCE = Guidance()


def along(move: Tensor, direction: Tensor) -> Tensor:
    """The part of `move` that points along `direction`, track by track; both (b, k, c, n)."""
    power = direction.square().sum(dim=(2, 3), keepdim=True)
    return (move * direction).sum(dim=(2, 3), keepdim=True) / power.clamp_min(_EPS) * direction
