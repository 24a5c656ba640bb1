"""How triplets are drawn: the sections `source` and `augment` of a dataset config."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mge_plugin.config import ConfigError, found

MAX_DB = 60  # of a gain, up or down
MAX_SEED = 2**32 - 1


def item_problems(seed: int, epoch_items: int | None) -> Iterator[str]:
    """What is wrong with what every dataset of items has."""
    if not 0 <= seed <= MAX_SEED:
        yield f"seed: expected 0 to {MAX_SEED}, found {seed}"
    if epoch_items is not None and epoch_items < 1:
        yield f"epoch_items: expected 1 or more, found {epoch_items}"


@dataclass(frozen=True)
class SourceConfig:
    """`source`: what is asked."""

    choose: Literal["stems", "labels"] = "stems"  # uniform over a song's; paper: stems
    max_stems: int = 1  # most stems together, their number uniform from 1; paper: 1
    groups: dict[str, Any] = field(default_factory=dict)  # name -> labels that are one source too
    p_absent: float = 0.0  # share of items asked for what the window does not contain; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if self.max_stems < 1:
            yield f"max_stems: expected 1 or more, found {self.max_stems}"
        if not 0.0 <= self.p_absent <= 1.0:
            yield f"p_absent: expected 0 to 1, found {self.p_absent}"
        for name, labels in self.groups.items():
            is_list = isinstance(labels, (list, tuple))
            if not is_list or len(labels) < 2 or not all(isinstance(x, str) for x in labels):
                yield f"groups.{name}: expected a list of 2 labels or more, found {found(labels)}"


@dataclass(frozen=True)
class AugmentConfig:
    """`augment`: changes that keep mixture = submixture + source exact; all off by default."""

    gain_db: tuple[float, ...] = (0.0, 0.0)  # each stem's gain, uniform between these; paper: 0
    p_polarity: float = 0.0  # share of stems turned upside down; paper: 0
    p_swap_channels: float = 0.0  # share of items with left and right swapped, if stereo; paper: 0
    p_other_songs: float = 0.0  # share of items whose submixture is of other songs' stems; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if len(self.gain_db) != 2 or not -MAX_DB <= self.gain_db[0] <= self.gain_db[1] <= MAX_DB:
            expected = f"[lowest, highest] between -{MAX_DB} and {MAX_DB}"
            yield f"gain_db: expected {expected}, found {list(self.gain_db)}"
        for name in ("p_polarity", "p_swap_channels", "p_other_songs"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                yield f"{name}: expected 0 to 1, found {getattr(self, name)}"

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self != AugmentConfig()
