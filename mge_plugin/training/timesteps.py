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
class Density:
    """A density of noise levels over (0, 1]."""

    type: Literal["uniform", "logit_normal"] = "uniform"  # paper: uniform
    location: float = 0.0  # of logit_normal: the median is sigmoid(location)
    scale: float = 1.0  # of logit_normal: standard deviation of the logit
    at_one: float = 0.0  # share of items at level 1, where the given tracks alone decide; paper: 0

    def __post_init__(self) -> None:
        problems = []
        if self.scale <= 0:
            problems.append(f"scale must be above 0, found {self.scale}")
        if not 0.0 <= self.at_one <= 1.0:
            problems.append(f"at_one must be from 0 to 1, found {self.at_one}")
        if problems:
            raise ConfigError(*problems)

    def levels(self, uniform: Tensor) -> Tensor:
        """Levels (b,) at these quantiles (b,); the highest quantiles are those at level 1."""
        at_one = uniform >= 1 - self.at_one
        quantile = uniform / (1 - self.at_one) if self.at_one < 1 else uniform
        if self.type == "logit_normal":
            inner = quantile.double().clamp(1e-6, 1 - 1e-6)
            quantile = (self.location + self.scale * torch.special.ndtri(inner)).sigmoid()
        return torch.where(at_one, 1.0, quantile.float())


@dataclass(frozen=True)
class PatternDensities:
    """Densities of single patterns, by what is given; the others have `density`."""

    none: Density | None = None  # nothing given: generation
    mixture: Density | None = None  # extraction
    submixture: Density | None = None  # a missing source
    source: Density | None = None  # its accompaniment

    def values(self) -> tuple[Density | None, ...]:
        """In the order of PATTERNS."""
        return (self.none, self.mixture, self.submixture, self.source)


@dataclass(frozen=True)
class TimestepConfig:
    """`training.timesteps`."""

    t_min: float = 0.02  # lowest level of a noised track; paper: 0.02
    patterns: PatternWeights = field(default_factory=PatternWeights)  # what is given how often
    levels: _Spread = "uniform"  # independent, one per part of the batch, or even; paper: uniform
    density: Density = field(default_factory=Density)  # of the levels; paper: uniform
    densities: PatternDensities = field(default_factory=PatternDensities)  # of single patterns
    given_noise: float = 0.0  # highest level of a given track, passed to the model as 0; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if not 0.0 <= self.t_min < 1.0:
            yield f"t_min must be from 0 to below 1, found {self.t_min}"
        if not 0.0 <= self.given_noise < 1.0:
            yield f"given_noise must be from 0 to below 1, found {self.given_noise}"


def draw_timesteps(
    config: TimestepConfig, draws: ItemRandomness, batch_size: int, absent: Tensor | None = None
) -> Tensor:
    """Levels (b, k) of a batch of `batch_size` items over all ranks: 0 on the given track.

    Items whose source is `absent` (b,) have their mixture given, see `_give_mixture`.
    """
    uniform = draws.uniform("timesteps", 2)
    numbers = torch.tensor(draws.numbers, dtype=torch.double)
    spread = {
        "uniform": lambda: uniform[:, 0],
        "stratified": lambda: (numbers % batch_size + uniform[:, 0]) / batch_size,
        "quasi_random": lambda: (draws.seed * _GOLDEN**2 + numbers * _GOLDEN) % 1,
    }
    quantiles = spread[config.levels]().float()
    shares = torch.tensor(config.patterns.values()).cumsum(0)
    pattern = torch.searchsorted(shares, uniform[:, 1] * shares[-1], right=True)
    pattern = _give_mixture(pattern, absent, config)
    by_pattern = [density or config.density for density in config.densities.values()]
    drawn = torch.stack([density.levels(quantiles) for density in by_pattern])
    levels = config.t_min + (1 - config.t_min) * drawn[pattern, torch.arange(len(pattern))]
    return _with_pattern(levels, pattern)


def fixed_timesteps(
    config: TimestepConfig, numbers: Sequence[int], absent: Tensor | None = None
) -> Tensor:
    """Levels (b, k) for validation: the patterns in turn, each at levels spread evenly."""
    patterns = [i for i, weight in enumerate(config.patterns.values()) if weight > 0]
    turns = torch.tensor([number // len(patterns) for number in numbers], dtype=torch.double)
    levels = config.t_min + (1 - config.t_min) * ((0.5 + turns * _GOLDEN) % 1).float()
    pattern = torch.tensor([patterns[number % len(patterns)] for number in numbers])
    return _with_pattern(levels, _give_mixture(pattern, absent, config))


def _give_mixture(pattern: Tensor, absent: Tensor | None, config: TimestepConfig) -> Tensor:
    """Patterns (b,) where every item whose source is `absent` (b,) has its mixture given.

    Only a given mixture shows that an instrument is absent. With another pattern such an item would
    teach the model to answer a request for music with silence. A model that is never given a
    mixture keeps its patterns.
    """
    if absent is None or not config.patterns.mixture:
        return pattern
    return torch.where(absent, Track.MIXTURE + 1, pattern)


def noising_levels(t: Tensor, config: TimestepConfig, draws: ItemRandomness) -> Tensor:
    """The levels that noise is added at, (b, k): a given track's may be above its 0.

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
