"""The noise of a run: drawn on the CPU by each item's seed, the same on every device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 16  # torch draws so many numbers together, and the last ones of a draw another way


class ItemNoise:
    """Unit noise (b, k, c, frames) of a batch; items of one seed have the same.

    Drawn frame by frame, so that a longer song begins with the same noise.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str
    ) -> None:
        self.seeds = tuple(seeds)
        self.tracks, self.channels, self.frames = shape
        self.device = device

    def first(self) -> Tensor:
        """What the run starts from."""
        return self._draw(list(self.seeds))

    def fresh(self, draw: int) -> Tensor:
        """The `draw`-th noise of a sampler that needs more."""
        return self._draw([_derive(seed, draw) for seed in self.seeds])

    def _draw(self, seeds: list[int]) -> Tensor:
        drawn = {seed: self._one(seed) for seed in dict.fromkeys(seeds)}
        return torch.stack([drawn[seed] for seed in seeds]).to(self.device)

    def _one(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        frames = -(-self.frames // BLOCK) * BLOCK
        noise = torch.randn(frames, self.tracks, self.channels, generator=generator)
        return noise[: self.frames].permute(1, 2, 0).contiguous()


def _derive(seed: int, draw: int) -> int:
    """Another seed for each draw of a run."""
    return int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0]) >> 1


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a further candidate; the first has the user's own."""
    return seed if candidate == 0 else _derive(seed, 1_000_000 + candidate)
