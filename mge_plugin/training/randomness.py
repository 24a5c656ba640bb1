"""All randomness in training, by item: the same on any number of ranks and after a resume."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_PURPOSES = ("conditioning", "dropout", "timesteps", "given_noise", "noise", "posterior")


@dataclass(frozen=True)
class ItemRandomness:
    """The draws of a batch; those of an item follow from the seed and its number in the whole run.

    Each purpose has its own stream, so an option that draws more does not change the others. All is
    drawn on the CPU, which gives the same values on every device; `to_device` copies it.
    """

    seed: int
    numbers: Sequence[int]  # of the items, counted over all ranks since the run began

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One generator per item."""
        stream = _PURPOSES.index(purpose)
        return [_generator([self.seed, number, stream]) for number in self.numbers]

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Gaussian noise (b, *shape), on the CPU."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self.generators(purpose)])

    def uniform(self, purpose: str, size: int = 1) -> Tensor:
        """(b, size) in [0, 1), on the CPU."""
        return torch.stack([torch.rand(size, generator=g) for g in self.generators(purpose)])


def _generator(entropy: Sequence[int]) -> torch.Generator:
    (seed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


def to_device(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Float32 copies of CPU tensors on a device; to a GPU in one copy that nothing waits for."""
    if device.type != "cuda":
        return [tensor.to(device, torch.float32) for tensor in tensors]
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors]).pin_memory()
    parts = flat.to(device, non_blocking=True).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@contextmanager
def as_global(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global generators with `generator`'s seed for code that draws from them."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield


def item_numbers(seen: int, batch_size: int, rank: int, ranks: int) -> list[int]:
    """Numbers of a rank's next items after all ranks together have had `seen` items.

    The sampler deals items to ranks in turn, so several ranks number them as a single one would.
    """
    return [seen + index * ranks + rank for index in range(batch_size)]
