"""What a corpus's reader is: it finds the places of songs, and reads one from its headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mge_plugin.data.audio import AudioError, audio_info
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.scan import File, Scanner
from mge_plugin.data.songs import IndexReport, Part

UNREADABLE = "unreadable stem"


@dataclass(frozen=True)
class Place:
    """A song before it is read: where it is and the files that decide what it is."""

    id: str
    path: Path
    splits: tuple[str, ...]  # that it is in
    files: tuple[File, ...]
    listed: tuple[tuple[str, ...], ...] = ()  # what a manifest says of it


@dataclass(frozen=True)
class FoundStem:
    """A stem as its corpus labels it; an instrument may have several labels."""

    labels: tuple[str, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Found:
    """What reading a place gave: its stems, none if the song cannot be used, and what was said."""

    stems: tuple[FoundStem, ...] = ()
    origin: str = ""  # what it was made from; the same in two splits is a leak
    report: IndexReport = field(default_factory=IndexReport)


@dataclass(frozen=True)
class Reader:
    """One kind of corpus."""

    find: Callable[[Scanner, CorpusConfig], list[Place]]  # all splits; a wrong layout raises
    read: Callable[[Place, CorpusConfig], Found]
    words: Mapping[str, str] = field(default_factory=dict)  # the corpus's label -> words


def left_out(where: Path | str, reason: str) -> Found:
    """A song that cannot be used."""
    report = IndexReport()
    report.leave_out(where, reason)
    return Found(report=report)


def read_part(path: Path, report: IndexReport) -> tuple[Part, ...]:
    """The file as a part of a stem, or nothing where it cannot be read, which is reported."""
    try:
        return (Part(path, *audio_info(path)),)
    except AudioError as error:
        report.leave_out(str(error), UNREADABLE)
        return ()
