"""Losses by pattern and track: one sees generation, extraction and imputation improve apart.

The training loss (paper, eqs. 9 to 11): only over the tracks that were noised.
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
from mge_plugin.training.timesteps import PATTERNS, pattern_numbers


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


def known_tracks(metadata: Sequence[Mapping[str, Any]]) -> Tensor:
    """Which tracks (b, k) the corpus knows, 1 or 0, by the items' `loss_mask`; all if it is absent.

    Songs that are nothing but a mixture teach nothing about sources.
    """
    return torch.tensor([[*item.get("loss_mask", (1, 1, 1))] for item in metadata]).float()


def absent_sources(metadata: Sequence[Mapping[str, Any]]) -> Tensor:
    """Which items (b,) ask for what their mixture does not contain, by their `absent`."""
    return torch.tensor([bool(item.get("absent", False)) for item in metadata])


def loss_weights(t: Tensor, known: Tensor, weights: LossWeights) -> Tensor:
    """What each item's tracks count, (b, k): nothing where they are given, `t` (b, k) is 0."""
    return (t > 0) * known * known.new_tensor(weights.values())


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The batch's loss, from (b, k) each; 0 where nothing counts.

    The weights of all ranks make the divisor: the mean of the ranks' gradients is then that of one
    rank with all items.
    """
    share = sum_over_ranks(weights.sum()) / number_of_ranks()
    return (losses * weights).sum() / torch.where(share > 0, share, 1.0)


def unpadded_frames(metadata: Sequence[Mapping[str, Any]], frames: int) -> Tensor | None:
    """Which latent frames (b, n) hold some of the song, from the items' padding masks, if any.

    SAT's versions give a mask (samples,) as a tensor, as a list with one or as a list of numbers.
    """
    masks = [item.get("padding_mask") for item in metadata]
    if any(mask is None for mask in masks):
        return None
    masks = [mask[0] if isinstance(mask[0], Tensor) and mask[0].ndim else mask for mask in masks]
    masks = [torch.as_tensor(mask).float().reshape(1, -1) for mask in masks]
    return torch.cat([F.adaptive_max_pool1d(mask, frames) for mask in masks]) > 0


class LossSums:
    """Sums of track losses and how many there were, over batches and ranks.

    What comes out does not depend on how the items fell on batches and ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(PATTERNS), NUM_TRACKS, device=device)
        self.counts = torch.zeros(len(PATTERNS), NUM_TRACKS)  # known without asking the GPU
        self.weighted = torch.zeros(2, device=device)  # losses x weights, weights

    def add(self, losses: Tensor, t: Tensor, known: Tensor, weights: Tensor) -> "LossSums":
        """Count a batch: `losses` and `weights` (b, k); levels `t` and `known` (b, k) on the CPU.

        A track that is given or that the corpus does not know is left out.
        """
        pattern, counted = pattern_numbers(t), (t > 0) & (known > 0)
        self.counts.index_add_(0, pattern, counted.float())
        device = self.sums.device
        losses = losses.detach() * counted.to(device)
        self.sums.index_add_(0, pattern.to(device), losses)
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
        """The mean by weight; 0 where nothing counts."""
        total, weight = self.weighted
        return total / torch.where(weight > 0, weight, 1.0)

    def means(self) -> dict[str, Tensor]:
        """By names such as "mixture_given/source"; what no item had is left out."""
        means = self.sums / self.counts.to(self.sums.device).clamp_min(1)
        return {
            f"{PATTERNS[pattern]}_given/{Track(track).label}": means[pattern, track]
            for pattern, track in self.counts.nonzero().tolist()
        }
