"""Songs, their stems and files: what every corpus reader returns and every dataset reads."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One audio file, or one audio stream of one, that belongs to a stem."""

    path: Path
    sample_rate: int  # Hz
    num_frames: int  # samples a channel
    stream: int | None = None  # audio stream of a container such as .stem.mp4

    @property
    def seconds(self) -> float:
        return self.num_frames / self.sample_rate


@dataclass(frozen=True)
class Stem:
    """One instrument: the sum of its parts, which may differ in rate and length."""

    label: str  # the instrument in words, as in prompts
    parts: tuple[Part, ...]
    queryable: bool = True  # may be the source; `other` and unknown instruments may not
    cached: Part | None = None  # the decoded sum of the parts, if a cache has it

    @property
    def path(self) -> Path:
        """The first part's file."""
        return self.parts[0].path

    @property
    def read_from(self) -> tuple[Part, ...]:
        """The files that are read: the parts, or their decoded sum in a cache."""
        return self.parts if self.cached is None else (self.cached,)

    @property
    def seconds(self) -> float:
        """Length of the longest part; shorter ones are silent after their end."""
        return max(part.seconds for part in self.parts)


@dataclass(frozen=True)
class Song:
    """Stems that sum to the mixture; a mixture-only song has one, the mixture itself."""

    id: str
    path: Path
    split: str
    stems: tuple[Stem, ...]
    mixture_only: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of all stems."""
        return tuple(part for stem in self.stems for part in stem.parts)

    @property
    def sources(self) -> tuple[Stem, ...]:
        """The stems that may be the source."""
        return tuple(stem for stem in self.stems if stem.queryable)

    @property
    def seconds(self) -> float:
        """Length of the longest stem; shorter ones are silent after their end."""
        return max(stem.seconds for stem in self.stems)

    def samples(self, sample_rate: int) -> int:
        """The same length in whole samples at `sample_rate`."""
        return max(part.num_frames * sample_rate // part.sample_rate for part in self.parts)


@dataclass
class IndexReport:
    """By reason, the places that a reader left out, and those with something odd."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, where: Path | str, reason: str) -> None:
        """Report that the file or song at `where` is not used."""
        self.left_out.setdefault(reason, []).append(str(where))

    def note(self, where: Path | str, what: str) -> None:
        """Report something odd about a file or song that is used."""
        self.odd.setdefault(what, []).append(str(where))

    def merge(self, other: "IndexReport") -> None:
        """Append another report."""
        for mine, theirs in ((self.left_out, other.left_out), (self.odd, other.odd)):
            for reason, places in theirs.items():
                mine.setdefault(reason, []).extend(places)

    def lines(self) -> list[str]:
        """One line per reason, with the first place as an example."""
        kinds = {"left out": self.left_out, "noticed": self.odd}
        return [
            f"{kind} {len(places)}: {reason} (first: {places[0]})"
            for kind, reasons in kinds.items()
            for reason, places in reasons.items()
        ]

    def log(self, corpus: str) -> None:
        """Log the lines as warnings."""
        for line in self.lines():
            _logger.warning("%s: %s", corpus, line)
