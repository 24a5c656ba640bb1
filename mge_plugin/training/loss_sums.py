"""Losses by pattern and track: one sees generation, extraction and imputation improve apart."""

import torch
from torch import Tensor

from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.ranks import sum_over_ranks
from mge_plugin.training.timesteps import PATTERNS, pattern_numbers


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
