"""The training loss (paper, eqs. 9 to 11): only over the tracks that were noised."""

import torch
from torch import Tensor

from mge_plugin.noise import per_track


def masked_v_loss(v: Tensor, target: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of `v` to `target` (b, k, c, n) where `t` (b, k) is above 0; a scalar."""
    noised = per_track(t > 0).to(v.dtype)
    squared = (v - target).square() * noised
    return squared.sum() / (noised.sum() * v.shape[2] * v.shape[3]).clamp_min(1)


def track_losses(v: Tensor, target: Tensor, t: Tensor) -> Tensor:
    """The same an item and track, (b, k); 0 where the track was given."""
    squared = (v - target).square().mean(dim=(2, 3))
    return torch.where(t > 0, squared, 0.0)
