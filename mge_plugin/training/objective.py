"""The training loss (paper, eqs. 9 to 11): only over the tracks that were noised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mge_plugin.config import ConfigError


@dataclass(frozen=True)
class LossWeights:
    """`training.loss_weights`: what a track's error counts in relation to the others'."""

    mixture: float = 1.0  # paper: 1
    submixture: float = 1.0  # paper: 1
    source: float = 1.0  # paper: 1

    def __post_init__(self) -> None:
        if min(self.values()) < 0 or not sum(self.values()):
            raise ConfigError("loss weights must be 0 or more and not all 0")

    def values(self) -> tuple[float, float, float]:
        """In the order of the tracks."""
        return (self.mixture, self.submixture, self.source)


def track_losses(prediction: Tensor, target: Tensor, frames: Tensor | None = None) -> Tensor:
    """Mean squared error (b, k) of each item's tracks, b k c n; over `frames` (b, n) alone."""
    squared = (prediction - target).square().mean(dim=2)
    if frames is None:
        return squared.mean(dim=2)
    kept = frames[:, None].to(squared)
    return (squared * kept).sum(dim=2) / kept.sum(dim=2).clamp_min(1)


def loss_weights(t: Tensor, metadata: Sequence[Mapping[str, Any]], weights: LossWeights) -> Tensor:
    """What each item's tracks count, (b, k): nothing where they are given, `t` (b, k) is 0.

    An item's `loss_mask`, three 0 or 1, leaves out a track that the corpus does not know.
    """
    known = [item.get("loss_mask", (1, 1, 1)) for item in metadata]
    return (t > 0) * t.new_tensor(known) * t.new_tensor(weights.values())


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The batch's loss, from (b, k) each; 0 where nothing counts.

    The weights of all ranks make the divisor: the mean of the ranks' gradients is then that of one
    rank with all items.
    """
    total = weights.sum()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return (losses * weights).sum() / torch.where(total > 0, total, 1.0)


def unpadded_frames(metadata: Sequence[Mapping[str, Any]], frames: int) -> Tensor | None:
    """Which latent frames (b, n) hold some of the song, from the items' padding masks, if any.

    SAT's versions give a mask (samples,) as a tensor or as a list with one.
    """
    masks = [item.get("padding_mask") for item in metadata]
    masks = [mask[0] if isinstance(mask, (list, tuple)) else mask for mask in masks]
    if any(mask is None for mask in masks):
        return None
    pooled = [F.adaptive_max_pool1d(mask.float().reshape(1, -1), frames) for mask in masks]
    return torch.cat(pooled) > 0
