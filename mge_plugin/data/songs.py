"""The song index: what every corpus reader gives and every dataset reads."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stem:
    """One instrument's file."""

    label: str  # the instrument in words, as prompts say it
    path: Path
    sample_rate: int  # Hz
    num_frames: int  # samples a channel

    @property
    def seconds(self) -> float:
        return self.num_frames / self.sample_rate


@dataclass(frozen=True)
class Song:
    """A folder of stems that sum to the mixture."""

    id: str
    path: Path
    split: str
    stems: tuple[Stem, ...]

    @property
    def seconds(self) -> float:
        """Length of the longest stem; shorter ones are silent after their end."""
        return max(stem.seconds for stem in self.stems)

    def samples(self, sample_rate: int) -> int:
        """The same length in whole samples at `sample_rate`."""
        return max(stem.num_frames * sample_rate // stem.sample_rate for stem in self.stems)


@dataclass
class IndexReport:
    """What a reader left out and what it found odd: by reason, the places it applies to."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, where: Path | str, reason: str) -> None:
        """Note that what is at `where` is not used."""
        self.left_out.setdefault(reason, []).append(str(where))

    def note(self, where: Path | str, what: str) -> None:
        """Note something that its owner should know, though it is used."""
        self.odd.setdefault(what, []).append(str(where))

    def lines(self) -> list[str]:
        """One line a reason, with the first place as an example."""
        kinds = {"left out": self.left_out, "noticed": self.odd}
        return [
            f"{kind} {len(places)}: {reason} (first: {places[0]})"
            for kind, reasons in kinds.items()
            for reason, places in reasons.items()
        ]

    def log(self, corpus: str) -> None:
        """Tell the lines as warnings."""
        for line in self.lines():
            logger.warning("%s: %s", corpus, line)
