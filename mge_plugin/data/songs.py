"""The song index: what every corpus reader gives and every dataset reads."""

import logging
from collections import Counter
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


@dataclass
class IndexReport:
    """What a reader left out and why: (path, reason) pairs, counted by reason when told."""

    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def leave_out(self, path: Path, reason: str) -> None:
        """Note that `path` is not used."""
        self.left_out.append((path, reason))

    def log(self, corpus: str) -> None:
        """One line a reason, with the first path as an example."""
        for reason, count in Counter(reason for _, reason in self.left_out).items():
            example = next(path for path, r in self.left_out if r == reason)
            logger.warning("%s: left out %d: %s (first: %s)", corpus, count, reason, example)
