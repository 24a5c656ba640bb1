"""The training loss (paper, eqs. 9 to 11), over the tracks that have noise; sums of it for logs.

Losses are logged by pattern and track, so that generation, extraction and imputation are visible
separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.devices import number_of_ranks, sum_over_ranks
from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.randomness import to_device
from mge_plugin.training.timesteps import PATTERNS, pattern_numbers


@dataclass(frozen=True)
class LossWeights:
    """`training.loss_weights`: weight of a track's error relative to the others."""

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


def known_tracks(metadata: Sequence[Mapping[str, Any]]) -> Tensor:
    """Which tracks (b, k) the corpus contains, 1 or 0, by the items' `loss_mask`; without it all.

    Songs without stems have a mixture alone.
    """
    return torch.tensor([[*item.get("loss_mask", (1, 1, 1))] for item in metadata]).float()


def absent_sources(metadata: Sequence[Mapping[str, Any]]) -> Tensor:
    """Which items (b,) have a prompt for a source that their mixture does not contain."""
    return torch.tensor([bool(item.get("absent", False)) for item in metadata])


def loss_weights(t: Tensor, known: Tensor, weights: LossWeights) -> Tensor:
    """The weight of each item's tracks, (b, k): 0 for given tracks, where `t` (b, k) is 0."""
    return (t > 0) * known * known.new_tensor(weights.values())


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The batch's loss from losses and weights (b, k); 0 where all weights are 0.

    The divisor is the mean over ranks of their weights' sums: the mean of the ranks' gradients is
    then the gradient of a single rank with all items.
    """
    share = sum_over_ranks(weights.sum()) / number_of_ranks()
    return (losses * weights).sum() / torch.where(share > 0, share, 1.0)


def unpadded_frames(metadata: Sequence[Mapping[str, Any]], frames: int) -> Tensor | None:
    """Which latent frames (b, n) contain some of the song, from the items' padding masks, if any.

    In SAT's versions a mask is a tensor (samples,), a list with one, or a list of numbers.
    """
    masks = [item["padding_mask"] for item in metadata if item.get("padding_mask") is not None]
    if len(masks) < len(metadata):
        return None
    masks = [mask[0] if isinstance(mask[0], Tensor) and mask[0].ndim else mask for mask in masks]
    rows = [torch.as_tensor(mask).float().reshape(1, -1) for mask in masks]
    return torch.cat([F.adaptive_max_pool1d(row, frames) for row in rows]) > 0


class LossSums:
    """Sums and counts of track losses over batches and ranks.

    The means do not depend on how the items are distributed over batches and ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(PATTERNS), NUM_TRACKS, device=device)
        self.counts = torch.zeros(len(PATTERNS), NUM_TRACKS)  # on the CPU: no GPU is waited for
        self.weighted = torch.zeros(2, device=device)  # losses x weights, weights

    def add(self, losses: Tensor, t: Tensor, known: Tensor, weights: Tensor) -> "LossSums":
        """Count a batch: `losses` and `weights` (b, k); levels `t` and `known` (b, k) on the CPU.

        Given tracks and those that the corpus does not contain are left out.
        """
        pattern, counted = pattern_numbers(t), ((t > 0) & (known > 0)).float()
        self.counts.index_add_(0, pattern, counted)
        numbers, kept = to_device(self.sums.device, pattern, counted)
        losses = losses.detach() * kept
        self.sums.index_add_(0, numbers.long(), losses)
        self.weighted += torch.stack([(losses * weights).sum(), weights.sum()])
        return self

    def over_ranks(self) -> "LossSums":
        """The same of all ranks together."""
        total = LossSums(self.sums.device)
        total.sums = sum_over_ranks(self.sums)
        total.counts = sum_over_ranks(self.counts.to(self.sums.device)).cpu()
        total.weighted = sum_over_ranks(self.weighted)
        return total

    def loss(self) -> Tensor:
        """The weighted mean; 0 where all weights are 0."""
        total, weight = self.weighted
        return total / torch.where(weight > 0, weight, 1.0)

    def means(self) -> dict[str, Tensor]:
        """By names such as "mixture_given/source"; combinations without items are left out."""
        means = self.sums / self.counts.to(self.sums.device).clamp_min(1)
        return {
            f"{PATTERNS[pattern]}_given/{Track(track).label}": means[pattern, track]
            for pattern, track in self.counts.nonzero().tolist()
        }
