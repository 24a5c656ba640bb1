"""Classifier-free guidance (paper, sections 2.2 and E.3), with the options that SAT has."""

from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = 1e-8  # a constant output has no deviation to rescale, silence no direction to project on


@dataclass(frozen=True)
class Guidance:
    """How far to move from what is not asked towards what is."""

    cfg_scale: float | tuple[float, ...] = 1.0  # one for all, or mixture's, submixture's, source's
    cfg_interval: tuple[float, float] = (0.0, 1.0)  # shares of noise (sigma) at which it acts
    cfg_rescale: float = 0.0  # share of the result that keeps the conditioned deviation
    apg_scale: float = 0.0  # share of the move that is taken orthogonal to the denoised latents

    def acts(self, sigma: Tensor) -> bool:
        """Whether anything moves at noise shares `sigma`, any shape; the largest counts (SAT)."""
        scales = self.cfg_scale if isinstance(self.cfg_scale, tuple) else (self.cfg_scale,)
        if all(scale == 1.0 for scale in scales):
            return False
        lowest, highest = self.cfg_interval
        if (lowest, highest) == (0, 1):
            return True
        return bool(lowest <= sigma.max() <= highest)

    def apply(self, asked: Tensor, away: Tensor, denoised: Tensor | None = None) -> Tensor:
        """Move from the prediction `away` towards `asked`; all (b, k, c, n).

        With `apg_scale` the move loses its part along `denoised`, the clean latents that `asked`
        implies, track by track (arXiv 2410.02416). `cfg_rescale` mixes in the same result rescaled
        to the deviation of `asked` over tracks and channels (arXiv 2305.08891, eqs. 15 and 16).
        """
        move = asked - away
        if self.apg_scale:
            move = move - self.apg_scale * along(move, denoised)
        guided = asked + (self._scale(asked) - 1.0) * move
        if not self.cfg_rescale:
            return guided
        deviations = (p.std(dim=(1, 2), keepdim=True) for p in (asked, guided))
        wanted, found = deviations
        rescaled = guided * (wanted / found.clamp_min(_EPS))
        return self.cfg_rescale * rescaled + (1 - self.cfg_rescale) * guided

    def _scale(self, like: Tensor) -> Tensor | float:
        """A number, or one for each track, (k, 1, 1)."""
        if isinstance(self.cfg_scale, tuple):
            return torch.tensor(self.cfg_scale, dtype=like.dtype).to(like.device)[:, None, None]
        return self.cfg_scale


def along(move: Tensor, direction: Tensor) -> Tensor:
    """The part of `move` that points along `direction`, track by track; both (b, k, c, n)."""
    power = direction.square().sum(dim=(2, 3), keepdim=True)
    return (move * direction).sum(dim=(2, 3), keepdim=True) / power.clamp_min(_EPS) * direction
