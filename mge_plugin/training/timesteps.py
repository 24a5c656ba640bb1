"""Which track is clean and how noisy the others are (paper, appendix C)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.randomness import ItemRandomness

_Spread = Literal["uniform", "stratified", "quasi_random"]
PATTERNS = ("none", *(track.label for track in Track))  # by what is given
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it fill [0, 1) evenly, however many they are


@dataclass(frozen=True)
class PatternWeights:
    """How often each pattern is drawn, in relation to the others."""

    none: float = 1.0  # all three tracks noised: generation; paper: 1
    mixture: float = 1.0  # the mixture given: extraction; paper: 1
    submixture: float = 1.0  # the submixture given: a missing source; paper: 1
    source: float = 1.0  # the source given: its accompaniment; paper: 1

    def __post_init__(self) -> None:
        if min(self.values()) < 0 or not sum(self.values()):
            raise ConfigError("pattern weights must be 0 or more and not all 0")

    def values(self) -> tuple[float, ...]:
        """Weights of no track given, then of each track."""
        return (self.none, self.mixture, self.submixture, self.source)


@dataclass(frozen=True)
class TimestepConfig:
    """`training.timesteps`."""

    t_min: float = 0.02  # lowest level of a noised track; paper: 0.02
    patterns: PatternWeights = field(default_factory=PatternWeights)  # what is given how often
    levels: _Spread = "uniform"  # by itself, one a part of the batch, or even; paper: uniform
    given_noise: float = 0.0  # highest level of a given track, told as 0; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if not 0.0 <= self.t_min < 1.0:
            yield f"t_min must be from 0 to below 1, found {self.t_min}"
        if not 0.0 <= self.given_noise < 1.0:
            yield f"given_noise must be from 0 to below 1, found {self.given_noise}"


def draw_timesteps(config: TimestepConfig, draws: ItemRandomness, batch_size: int) -> Tensor:
    """Levels (b, k) of a batch, one of `batch_size` items over all ranks: 0 on the given track."""
    uniform = draws.uniform("timesteps", 2)
    numbers = torch.tensor(draws.numbers, dtype=torch.double)
    spread = {
        "uniform": lambda: uniform[:, 0],
        "stratified": lambda: (numbers % batch_size + uniform[:, 0]) / batch_size,
        "quasi_random": lambda: (draws.seed * _GOLDEN**2 + numbers * _GOLDEN) % 1,
    }
    levels = config.t_min + (1 - config.t_min) * spread[config.levels]().float()
    shares = torch.tensor(config.patterns.values()).cumsum(0)
    pattern = torch.searchsorted(shares, uniform[:, 1] * shares[-1], right=True)
    return _with_pattern(levels, pattern)


def fixed_timesteps(config: TimestepConfig, numbers: Sequence[int]) -> Tensor:
    """Levels (b, k) for validation: the patterns in turn, each at levels spread evenly."""
    patterns = [i for i, weight in enumerate(config.patterns.values()) if weight > 0]
    turns = torch.tensor([number // len(patterns) for number in numbers], dtype=torch.double)
    levels = config.t_min + (1 - config.t_min) * ((0.5 + turns * _GOLDEN) % 1).float()
    pattern = torch.tensor([patterns[number % len(patterns)] for number in numbers])
    return _with_pattern(levels, pattern)


def give_mixture(t: Tensor, absent: Tensor, config: TimestepConfig) -> Tensor:
    """Levels (b, k) where every item whose source is `absent` (b,) has its mixture given.

    That an instrument is not there can be heard in a known mixture only. With another pattern such
    an item would teach to answer with silence where music is asked for. A model that is never
    given a mixture keeps its levels.
    """
    if not config.patterns.mixture:
        return t
    given = _with_pattern(t.amax(dim=1), torch.full(absent.shape, Track.MIXTURE + 1))
    return torch.where(absent[:, None], given, t)


def noising_levels(t: Tensor, config: TimestepConfig, draws: ItemRandomness) -> Tensor:
    """The levels that noise is added at, (b, k): a given track's may be above the 0 it is told as.

    A little noise makes up for what an autoencoder gets wrong of a track that is encoded alone.
    """
    if not config.given_noise:
        return t
    given = config.given_noise * draws.uniform("given_noise")
    return torch.where(t == 0, given.to(t), t)


def _with_pattern(levels: Tensor, pattern: Tensor) -> Tensor:
    """Levels (b,) for every track but the given one; pattern 0 gives none, k gives track k - 1."""
    given = pattern[:, None] - 1 == torch.arange(NUM_TRACKS)
    return torch.where(given, 0.0, levels[:, None])


def pattern_numbers(t: Tensor) -> Tensor:
    """Each item's place in PATTERNS, (b,), from its levels (b, k)."""
    clean = t == 0
    return torch.where(clean.any(dim=1), clean.int().argmax(dim=1) + 1, 0)
