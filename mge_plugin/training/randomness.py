"""Everything random in training, by item: the same on any number of ranks and after a resume."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PURPOSES = ("conditioning", "dropout", "timesteps", "given_noise", "noise", "posterior")


@dataclass(frozen=True)
class ItemRandomness:
    """The draws of a batch; an item's are decided by the seed and its number in the whole run.

    Each purpose has its own stream, so that an option which draws more leaves the rest as it is.
    All is drawn on the CPU: the same on every device.
    """

    seed: int
    numbers: Sequence[int]  # of the items, counted over all ranks since the run began

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One generator an item."""
        stream = PURPOSES.index(purpose)
        return [_generator([self.seed, number, stream]) for number in self.numbers]

    def normal(self, purpose: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """Gaussian noise (b, *shape)."""
        drawn = [torch.randn(*shape, generator=g) for g in self.generators(purpose)]
        return torch.stack(drawn).to(device, non_blocking=True)

    def uniform(self, purpose: str, size: int = 1) -> Tensor:
        """(b, size) in [0, 1), on the CPU."""
        return torch.stack([torch.rand(size, generator=g) for g in self.generators(purpose)])


def _generator(entropy: Sequence[int]) -> torch.Generator:
    (seed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


@contextmanager
def as_global(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let code that draws from the global generators draw what `generator`'s seed decides."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield


def item_numbers(seen: int, batch_size: int, rank: int, ranks: int) -> list[int]:
    """Numbers of a rank's next items when all ranks together have `seen` so many before.

    The sampler deals items to ranks in turn, so two ranks number theirs as one would that has both.
    """
    return [seen + index * ranks + rank for index in range(batch_size)]
