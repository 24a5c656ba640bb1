"""Which item comes when: reproducible, different in every epoch and on every rank, resumable."""

from collections.abc import Iterator, Sized

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler


class ItemSampler(DistributedSampler):
    """Yields item numbers `epoch * len(dataset) + index`, a permutation of the indices an epoch.

    The item number alone decides what the dataset returns, so workers and ranks cannot change it.
    It is a DistributedSampler so that Lightning uses it as it is and tells it the epoch; the rank
    is asked for when iterating, since SAT builds its loaders before its processes are connected.
    """

    def __init__(self, dataset: Sized, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        self.skipped = 0  # items of the next epoch that an interrupted run has seen already

    def skip(self, items: int) -> None:
        """Leave out this rank's first `items` of the next iteration, and of no later one."""
        self.skipped = items

    def __iter__(self) -> Iterator[int]:
        rank, ranks = _rank_and_ranks()
        size = len(self.dataset)
        order = self._permutation() if self.shuffle else torch.arange(size)
        epoch = self.epoch if self.shuffle else 0
        items = (epoch * size + order).tolist()[rank : size - size % ranks : ranks]
        skipped, self.skipped = self.skipped, 0
        return iter(items[skipped:])

    def __len__(self) -> int:
        return len(self.dataset) // _rank_and_ranks()[1]

    def _permutation(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator)


def _rank_and_ranks() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
