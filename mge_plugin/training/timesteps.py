"""Which track is clean and how noisy the others are (paper, appendix C)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.tracks import NUM_TRACKS, Track


@dataclass(frozen=True)
class PatternWeights:
    """How often each pattern is drawn, in relation to the others."""

    none: float = 1.0  # all three tracks noised: generation
    mixture: float = 1.0  # the mixture given: extraction
    submixture: float = 1.0  # the submixture given: a missing source
    source: float = 1.0  # the source given: its accompaniment

    def __post_init__(self) -> None:
        if min(self.values()) < 0 or not sum(self.values()):
            raise ConfigError("pattern weights must be 0 or more and not all 0")

    def values(self) -> tuple[float, ...]:
        """Weights of no track given, then of each track."""
        return (self.none, self.mixture, self.submixture, self.source)


@dataclass(frozen=True)
class TimestepConfig:
    """`training.timesteps`."""

    t_min: float = 0.02  # lowest level of a noised track
    patterns: PatternWeights = field(default_factory=PatternWeights)

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < 1.0:
            raise ConfigError(f"t_min must be from 0 to below 1, found {self.t_min}")


def draw_timesteps(batch_size: int, config: TimestepConfig, generator: torch.Generator) -> Tensor:
    """Levels (batch, track): one uniform level on [t_min, 1] an item, 0 on its given track."""
    device = generator.device
    uniform = torch.rand(batch_size, generator=generator, device=device)
    t = config.t_min + (1 - config.t_min) * uniform
    weights = torch.tensor(config.patterns.values(), device=device)
    pattern = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    given = pattern[:, None] - 1 == torch.arange(NUM_TRACKS, device=device)
    return torch.where(given, 0.0, t[:, None])


def pattern_name(levels: Tensor) -> str:
    """The pattern of one item's levels (track,): a given track's label, or "none"."""
    clean = (levels == 0).nonzero().flatten().tolist()
    return Track(clean[0]).label if clean else "none"
