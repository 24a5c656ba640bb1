"""What every corpus reader needs: its config, a scanner of folders, metadata files, splits.

A reader (`READERS` in `mge_plugin.data.corpora.index`) finds the places of songs, from names and
folders alone, and reads one song from its headers.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import yaml

from mge_plugin.config import ConfigError, choose, found
from mge_plugin.data.audio import AudioError, audio_info, check_level
from mge_plugin.data.songs import IndexReport, Part, Song
from mge_plugin.files import read_regular

SPLITS = ("train", "validation", "test")
MAC_COMPANIONS = "__MACOSX"  # a folder of hidden files in archives that macOS made
UNREADABLE = "unreadable stem"

_SHARES = ("test_share", "validation_share", "split_seed")
READER_OPTIONS: dict[str, tuple[str, ...]] = {  # by type: options that not every type has
    "slakh": (),
    "musdb18": (),
    "musdb18_hq": (),
    "moisesdb": _SHARES,
    "medleydb": ("metadata_path", "drop_bleed", *_SHARES),
    "folder": ("audio_path", *_SHARES),
}


# Keys of stable-audio-tools' dataset configs that do not apply -> what to use instead.
_SILENCE, _LENGTH = "use silence_db", "songs of every length are used"
REPLACED_IN_DATASETS = {
    "random_crop": "a window starts anywhere in its song",
    "volume_norm": "use augment.gain_db",
    "volume_norm_param": "use augment.gain_db",
    "strip_silence": _SILENCE,
    "remove_silence": _SILENCE,
    "silence_threshold": _SILENCE,
    "max_silence_duration": _SILENCE,
    "min_length_sec": _LENGTH,
    "max_length_sec": _LENGTH,
    "latent_crop_length": "use the model's sample_size",
    "pre_encoded": "use dataset_type 'mge_latents'",
    "epoch_steps": "use epoch_items",
    "resampled_shards": "shards are drawn again in every epoch",
    "custom_metadata_module": "prompts are made of labels: use templates and label_map",
}


@dataclass(frozen=True)
class CorpusConfig:
    """Where a corpus is, how it is read and which of its stems are used."""

    id: str
    path: str
    type: Literal["slakh", "musdb18", "musdb18_hq", "moisesdb", "medleydb", "folder"] = "slakh"
    split: str = "train"
    labels: tuple[str, ...] | None = None  # keep only stems with these labels (paper: S_A)
    exclude_labels: tuple[str, ...] = ()  # keep all but these (paper: S_B)
    label_map: dict[str, str] = field(default_factory=dict)  # the corpus's label -> words
    query_other: bool = False  # `other` may be the source too
    weight: float | Literal["equal"] | None = None  # share of the items; by default by windows
    exclude: tuple[str, ...] = ()  # songs, "id", or stems, "id/stem", that are left out
    mixture_only: bool = False  # the sum of a song's stems is all that is used
    follow_links: bool = False  # use files behind links that lead out of the corpus
    on_duplicates: Literal["warn", "leave_out", "error"] = "warn"  # songs in other splits, corpora
    # Options of some types, by READER_OPTIONS; None is the type's own default.
    metadata_path: str | None = None  # folder of *_METADATA.yaml
    drop_bleed: bool | None = None  # leave out songs with bleed between stems
    audio_path: str | None = None  # folder to which a manifest's paths are relative
    test_share: float | None = None  # share of songs drawn for the test split, 0 to 1
    validation_share: float | None = None
    split_seed: int | None = None  # seed of that draw

    REPLACED: ClassVar[dict[str, str]] = {
        "custom_metadata_module": REPLACED_IN_DATASETS["custom_metadata_module"],
        "keywords": "use labels, exclude_labels and exclude",
        "filelist_path": "use split and exclude, or a manifest (type 'folder')",
        "latent_extension": "latents are what mge encode writes",
    }

    def __post_init__(self) -> None:
        if problems := [*self._foreign_options(), *self._wrong_values()]:
            raise ConfigError(*problems)

    def _foreign_options(self) -> list[str]:
        """Options that only other types have."""
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
        if wrong := {k: v for k, v in self.label_map.items() if not isinstance(v, str)}:
            problems.append(f"label_map: expected words for each label, found {found(wrong)}")
        shares = [self.test_share or 0, self.validation_share or 0]
        if min(shares) < 0 or sum(shares) > 1:
            problems.append(f"test_share and validation_share: expected 0 to 1, found {shares}")
        return problems


def _types_with(option: str) -> str:
    names = [repr(name) for name, options in READER_OPTIONS.items() if option in options]
    return " or ".join(names)


@dataclass(frozen=True)
class Corpus:
    """One corpus read: its songs and what was left out or odd."""

    config: CorpusConfig
    songs: tuple[Song, ...]
    report: IndexReport
    unused: dict[str, str] = field(default_factory=dict)  # paths of songs in other splits, by title


def weight_problems(entries: Sequence[Any]) -> list[str]:
    """What is wrong with ids and weights of `datasets`: all have a weight of one kind, or none."""
    ids, weights = [entry.id for entry in entries], [entry.weight for entry in entries]
    problems = [f"datasets: id {i!r} is used twice" for i in sorted(set(ids)) if ids.count(i) > 1]
    problems += [
        f"datasets: {entry.id}: weight: expected a number above 0, found {found(entry.weight)}"
        for entry in entries
        if isinstance(entry.weight, float) and entry.weight <= 0
    ]
    without = [i for i, weight in zip(ids, weights, strict=True) if weight is None]
    if 0 < len(without) < len(ids):
        problems.append(f"weight: expected for all or none, missing for {', '.join(without)}")
    elif len({isinstance(weight, str) for weight in weights}) > 1:
        problems.append("weight: expected 'equal' for all or numbers for all, found both")
    return problems


def shares(entries: Sequence[Any]) -> list[float] | None:
    """The share of the items of each entry of `datasets`; None if windows decide."""
    weights = [1.0 if entry.weight == "equal" else entry.weight for entry in entries]
    return None if None in weights else weights


def plain(name: str) -> str:
    """A name without what file systems change: case, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


def by_name(files: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Files by name and then ending; names are plain, endings in lower case."""
    table: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in files:
        table[plain(file.stem)][file.suffix.lower()] = file
    return table


class Scanner:
    """Lists what is in one corpus, in the order of names, and reports what it leaves out.

    Hidden files, `__MACOSX`, links that lead out of the corpus and files that are not regular are
    left out; a folder that links reach in several ways is listed once.
    """

    def __init__(self, root: Path, report: IndexReport, follow_links: bool = False) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
        self.root = root
        self.report = report
        self.follow_links = follow_links
        self._real_root = root.resolve()  # the root itself may be a link
        self._listed: dict[Path, dict[str, os.DirEntry[str]]] = {}  # so that reports come once

    def folders(self, folder: Path) -> list[Path]:
        """The folders in a folder."""
        return [Path(entry.path) for entry in self._entries(folder).values() if entry.is_dir()]

    def files(self, folder: Path) -> list[Path]:
        """The files in a folder, none where there is no such folder."""
        return [Path(entry.path) for entry in self._entries(folder).values() if entry.is_file()]

    def file(self, path: Path) -> list[Path]:
        """The one file at `path`, as a list, empty where there is none."""
        entry = self._entries(path.parent).get(path.name)
        return [path] if entry is not None and entry.is_file() else []

    def walk(self, folder: Path) -> list[tuple[Path, list[Path]]]:
        """The folder and all below it, with their files; each real folder once.

        A folder that is there and behind a link is listed by its own name.
        """
        listed: list[tuple[Path, list[Path]]] = []
        folders, links, seen = [folder], list[Path](), set[Path]()
        while folders or links:
            current = (folders or links).pop(0)
            if (real := current.resolve()) in seen:
                self.report.leave_out(current, "link to a folder that is listed already")
                continue
            seen.add(real)
            listed.append((current, self.files(current)))
            for child in self.folders(current):
                (links if child.is_symlink() else folders).append(child)
        return sorted(listed, key=lambda entry: entry[0].parts)

    def contains(self, path: Path) -> bool:
        """Whether a path is in the corpus, by its name and, unless links are followed, really."""
        if ".." in path.parts or not path.is_relative_to(self.root):
            return False
        return self.follow_links or path.resolve().is_relative_to(self._real_root)

    def _entries(self, folder: Path) -> dict[str, os.DirEntry[str]]:
        if folder not in self._listed:
            self._listed[folder] = {entry.name: entry for entry in self._list(folder)}
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
        return [entry for entry in shown if self._is_used(entry)]

    def _is_used(self, entry: os.DirEntry[str]) -> bool:
        path = Path(entry.path)
        if not entry.is_symlink():
            is_used = entry.is_file() or entry.is_dir()
        elif not path.exists():
            self.report.leave_out(path, "link to nothing")
            return False
        elif self._leads_out(path):
            self._leave_out_link(path)
            return False
        else:
            is_used = path.is_file() or path.is_dir()
        if not is_used:
            self.report.leave_out(path, "pipe, socket or device")
        return is_used

    def _leads_out(self, path: Path) -> bool:
        if self.follow_links or path == self.root or not path.is_symlink():
            return False
        return not path.resolve().is_relative_to(self._real_root)

    def _leave_out_link(self, path: Path) -> None:
        reason = "link that leads out of the corpus (follow_links: true would use it)"
        self.report.leave_out(path, reason)


@dataclass(frozen=True)
class Place:
    """A song before it is read: where it is and the files that decide what it is."""

    id: str
    path: Path
    splits: tuple[str, ...]
    files: tuple[Path, ...]
    listed: tuple[tuple[str, ...], ...] = ()  # its lines in a manifest


class FoundStem(NamedTuple):
    """A stem as its corpus labels it; an instrument may have several labels."""

    labels: tuple[str, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Found:
    """What reading a place gave: its stems, none if the song cannot be used, and a report."""

    stems: tuple[FoundStem, ...] = ()
    origin: str = ""  # what it was made from; the same in two splits is a leak
    report: IndexReport = field(default_factory=IndexReport)


class Reader(NamedTuple):
    """One kind of corpus."""

    find: Callable[[Scanner, CorpusConfig], list[Place]]  # all splits; a wrong layout raises
    read: Callable[[Place, CorpusConfig], Found]
    words: Mapping[str, str] = {}  # the corpus's label -> words of prompts


def left_out(where: Path | str, reason: str) -> Found:
    """A song that cannot be used."""
    report = IndexReport()
    report.leave_out(where, reason)
    return Found(report=report)


def read_part(path: Path, report: IndexReport) -> tuple[Part, ...]:
    """The file as a part of a stem, or nothing where it cannot be used, which is reported."""
    try:
        check_level(path)
        return (Part(path, *audio_info(path)),)
    except AudioError as error:
        report.leave_out(str(error), UNREADABLE)
        return ()


class _TextLoader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """Every value stays a text, or null: a song called "1999" or "Yes" is no number and no truth.

    The loader in C is 7 times as fast.
    """


_NULL = "tag:yaml.org,2002:null"
_TextLoader.add_implicit_resolver(_NULL, re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_TextLoader.add_constructor(_NULL, lambda loader, node: None)


class MetadataError(ValueError):
    """A song's metadata that cannot be used; the message says why, without the place."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML object of texts; one that is missing or broken raises MetadataError."""
    return _read(path, lambda content: yaml.load(content, Loader=_TextLoader))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object; errors as of `read_yaml`."""
    return _read(path, json.loads)


def _read(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        content = parse(read_regular(path))
    except FileNotFoundError:
        raise MetadataError("song without metadata") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"song whose metadata cannot be read ({type(error).__name__})"
        raise MetadataError(reason) from error
    return content if isinstance(content, dict) else {}


def split_folders(scanner: Scanner, split: str, names: tuple[str, ...] = SPLITS) -> dict[str, Path]:
    """The folders of the splits that there are; a corpus without any is all of it `split`."""
    present = {path.name: path for path in scanner.folders(scanner.root) if path.name in names}
    if not present:
        note = f"corpus without split folders, all of it is used as {split!r}"
        scanner.report.note(scanner.root, note)
        return {split: scanner.root}
    if split not in present:
        raise ConfigError(f"{scanner.root}: has no split {split!r}, found {sorted(present)}")
    return present


def draw_splits(
    ids: Iterable[str], config: CorpusConfig, test_share: float = 0.0
) -> dict[str, str]:
    """A split for every id: first the test split's share, then validation's, of a drawn order.

    The order is by hashes of seed and id, so that a new song moves few of the others.
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
