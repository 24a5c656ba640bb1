"""Folders and files of a corpus: by scandir, so that any name is a name.

Passed over: names that begin with a dot, `__MACOSX`, links that lead out of the corpus.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from mge_plugin.config import ConfigError
from mge_plugin.data.songs import IndexReport

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
