"""Splits of corpora: folders where there are any, else a draw by a seed.

One corpus of a dataset config: an entry of `datasets`.

Folders and files of a corpus: by scandir, so that any name is a name.

Passed over: names that begin with a dot, `__MACOSX`, links that lead out of the corpus.

What a corpus's reader is: it finds the places of songs, and reads one from its headers.

Metadata files of songs, YAML and JSON: an object, or an error in words.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import yaml

from mge_plugin.config import ConfigError, choose, found
from mge_plugin.data.audio import AudioError, audio_info
from mge_plugin.data.songs import IndexReport, Part

_SHARES = ("test_share", "validation_share", "split_seed")
READER_OPTIONS: dict[str, tuple[str, ...]] = {  # by type: the options that it has beside the common
    "slakh": ("on_duplicates",),
    "musdb18": (),
    "musdb18_hq": (),
    "moisesdb": _SHARES,
    "medleydb": ("metadata_path", "drop_bleed", *_SHARES),
    "folder": ("audio_path", *_SHARES),
}


@dataclass(frozen=True)
class CorpusConfig:
    """Where a corpus is, how it is read and which of its stems are used."""

    id: str
    path: str
    type: Literal["slakh", "musdb18", "musdb18_hq", "moisesdb", "medleydb", "folder"] = "slakh"
    split: str = "train"
    labels: tuple[str, ...] | None = None  # keep only stems so labelled (S_A of the paper)
    exclude_labels: tuple[str, ...] = ()  # keep all but these (S_B of the paper)
    label_map: dict[str, str] = field(default_factory=dict)  # the corpus's label -> words
    query_other: bool = False  # `other` may be the asked source too
    weight: float | None = None  # share of the items beside other corpora; by default its windows
    exclude: tuple[str, ...] = ()  # songs, "id", or stems, "id/stem", that are left out
    mixture_only: bool = False  # the sum of a song's stems is all that is used
    follow_links: bool = False  # use files behind links that lead out of the corpus
    # Options of one reader, by READER_OPTIONS; None is its own default.
    on_duplicates: Literal["warn", "leave_out", "error"] | None = None  # of songs in other splits
    metadata_path: str | None = None  # folder of *_METADATA.yaml
    drop_bleed: bool | None = None  # leave out songs whose microphones heard other instruments
    audio_path: str | None = None  # folder that a manifest's paths start from
    test_share: float | None = None  # share of songs drawn for the test split, 0 to 1
    validation_share: float | None = None
    split_seed: int | None = None  # of that draw

    def __post_init__(self) -> None:
        if problems := [*self._foreign_options(), *self._wrong_values()]:
            raise ConfigError(*problems)

    def _foreign_options(self) -> list[str]:
        """Options given that another reader has, but not this one."""
        own = READER_OPTIONS.get(self.type, ())
        names = {name for options in READER_OPTIONS.values() for name in options}
        return [
            f"{name}: an option of type {_types_with(name)}, not of {self.type!r}"
            for name in sorted(names.difference(own))
            if getattr(self, name) is not None
        ]

    def _wrong_values(self) -> list[str]:
        problems = []
        if self.labels is not None and self.exclude_labels:
            problems.append("labels and exclude_labels: expected one of them, found both")
        if self.weight is not None and self.weight <= 0:
            problems.append(f"weight: expected a number above 0, found {found(self.weight)}")
        if wrong := {k: v for k, v in self.label_map.items() if not isinstance(v, str)}:
            problems.append(f"label_map: expected words for each label, found {found(wrong)}")
        shares = [self.test_share or 0, self.validation_share or 0]
        if min(shares) < 0 or sum(shares) > 1:
            problems.append(f"test_share and validation_share: expected 0 to 1, found {shares}")
        return problems


def _types_with(option: str) -> str:
    names = [repr(name) for name, options in READER_OPTIONS.items() if option in options]
    return " or ".join(names)


def check_weights(corpora: tuple[Any, ...]) -> list[str]:
    """All corpora have a weight or none has: beside a number of windows it would mean nothing."""
    without = [corpus.id for corpus in corpora if corpus.weight is None]
    if 0 < len(without) < len(corpora):
        return [f"weight: expected for every corpus or for none, missing for {', '.join(without)}"]
    return []


MAC_COMPANIONS = "__MACOSX"


@dataclass(frozen=True)
class File:
    """A file as it was seen; the cache compares size and time."""

    path: Path
    size: int  # bytes
    mtime_ns: int


def plain(name: str) -> str:
    """A name without what file systems change: case, and how accents are composed."""
    return normalize("NFC", name).casefold()


def by_name(files: Iterable[File]) -> dict[str, dict[str, Path]]:
    """Files by name and then ending; names are plain, endings in lower case."""
    table: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in files:
        table[plain(file.path.stem)][file.path.suffix.lower()] = file.path
    return table


class Scanner:
    """Lists what lies in one corpus, in the order of names, and notes what it passes over."""

    def __init__(self, root: Path, report: IndexReport, follow_links: bool = False) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
        self.root = root
        self.report = report
        self.follow_links = follow_links
        self._real_root = root.resolve()  # the root itself may be a link
        self._listed: dict[Path, list[os.DirEntry[str]]] = {}  # what is passed over is noted once

    def folders(self, folder: Path) -> list[Path]:
        """The folders in a folder."""
        return [Path(entry.path) for entry in self._entries(folder) if entry.is_dir()]

    def files(self, folder: Path) -> list[File]:
        """The files in a folder, none where there is no such folder."""
        return [_file(Path(e.path), e.stat()) for e in self._entries(folder) if e.is_file()]

    def file(self, path: Path) -> list[File]:
        """The one file at `path`, as a list, empty where there is none."""
        return [file for file in self.files(path.parent) if file.path == path]

    def walk(self, folder: Path) -> Iterator[tuple[Path, list[File]]]:
        """The folder and all below it, with their files."""
        yield folder, self.files(folder)
        for child in self.folders(folder):
            yield from self.walk(child)

    def holds(self, path: Path) -> bool:
        """Whether a path lies in the corpus, in its words and, where asked for, behind links."""
        if ".." in path.parts or not path.is_relative_to(self.root):
            return False
        return self.follow_links or path.resolve().is_relative_to(self._real_root)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        return self._listed[folder]

    def _list(self, folder: Path) -> list[os.DirEntry[str]]:
        if self._leads_out(folder):
            self._leave_out_link(folder)
            return []
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.report.leave_out(folder, f"folder that cannot be read ({error.strerror})")
            return []
        shown = (e for e in entries if not e.name.startswith(".") and e.name != MAC_COMPANIONS)
        return [entry for entry in shown if not entry.is_symlink() or self._may_follow(entry)]

    def _may_follow(self, link: os.DirEntry[str]) -> bool:
        path = Path(link.path)
        if not path.exists():
            self.report.leave_out(path, "link to nothing")
        elif path.is_dir() and path.parent.resolve().is_relative_to(path.resolve()):
            self.report.leave_out(path, "link to a folder that it lies in")
        elif self._leads_out(path):
            self._leave_out_link(path)
        else:
            return True
        return False

    def _leads_out(self, path: Path) -> bool:
        if self.follow_links or path == self.root or not path.is_symlink():
            return False
        return not path.resolve().is_relative_to(self._real_root)

    def _leave_out_link(self, path: Path) -> None:
        reason = "link that leads out of the corpus (follow_links: true would use it)"
        self.report.leave_out(path, reason)


def _file(path: Path, stat: os.stat_result) -> File:
    return File(path, stat.st_size, stat.st_mtime_ns)


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


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is 7 times as fast


class MetadataError(ValueError):
    """A song's metadata that cannot be used; the message says why, without the place."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML object; one that is not there, broken or of another shape raises MetadataError."""
    return _read(path, lambda content: yaml.load(content, Loader=_LOADER))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object, likewise."""
    return _read(path, json.loads)


def _read(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_bytes())
    except FileNotFoundError:
        raise MetadataError("song without metadata") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"song whose metadata cannot be read ({type(error).__name__})"
        raise MetadataError(reason) from error
    return content if isinstance(content, dict) else {}


SPLITS = ("train", "validation", "test")


def split_folders(scanner: Scanner, split: str, names: tuple[str, ...] = SPLITS) -> dict[str, Path]:
    """The folders of the splits that there are; a corpus without any is all of it `split`."""
    present = {path.name: path for path in scanner.folders(scanner.root) if path.name in names}
    if not present:
        said = f"corpus without split folders, all of it is used as {split!r}"
        scanner.report.note(scanner.root, said)
        return {split: scanner.root}
    if split not in present:
        raise ConfigError(f"{scanner.root}: has no split {split!r}, found {sorted(present)}")
    return present


def draw_splits(
    ids: Iterable[str], config: CorpusConfig, test_share: float = 0.0
) -> dict[str, str]:
    """A split for every id: the test's share first, then the validation's, of a seeded order.

    The order is that of hashes, so a song more or less moves few of the others.
    """
    choose("split", config.split, dict.fromkeys(SPLITS))
    seed = config.split_seed or 0
    order = sorted(ids, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}:{name}")).digest())
    share = test_share if config.test_share is None else config.test_share
    test = round(share * len(order))
    validation = test + round((config.validation_share or 0.0) * len(order))
    splits = ["test"] * test + ["validation"] * (validation - test)
    splits += ["train"] * (len(order) - len(splits))
    if order and config.split not in splits:
        raise ConfigError(f"{config.path}: split {config.split!r} has no song, set its share")
    return dict(zip(order, splits, strict=False))
