"""SONG...: files, folders and manifests to songs."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mge_plugin.cli.console import complain
from mge_plugin.cli.manifest import NewLine, read_songs
from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.folder import AUDIO
from mge_plugin.data.corpora.scan import MAC_COMPANIONS


@dataclass(frozen=True)
class Entry:
    """A song that was named, and what a manifest says of it."""

    path: Path
    folder: Path = Path()  # where its results go, under --out
    line: NewLine = field(default_factory=NewLine)
    where: str | None = None  # file:line of the manifest


def find_songs(arguments: Sequence[Path], out: Path) -> list[Entry]:
    """The songs in the order of the arguments; what of a folder is passed over is said."""
    entries: list[Entry] = []
    for argument in arguments:
        if argument.is_dir():
            entries += _in_folder(argument, out)
        elif argument.suffix.lower() == ".jsonl":
            entries += [
                Entry(path, line=line, where=where) for where, path, line in read_songs(argument)
            ]
        else:
            entries.append(Entry(argument))
    return entries


def _in_folder(root: Path, out: Path) -> list[Entry]:
    if out.exists() and out.samefile(root):
        raise ConfigError(
            f"--out: {out} is the songs' own folder, where results would be taken for songs; "
            "choose another, it may be inside"
        )
    songs, passed_over = _scan(root, out.resolve())
    said = ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    if not songs:
        raise ConfigError(f"{root}: expected audio files, found none" + (said and f" ({said})"))
    if said:
        complain(f"{root}: passed over: {said}")
    return [Entry(path, path.parent.relative_to(root)) for path in songs]


def _scan(root: Path, out: Path) -> tuple[list[Path], Counter[str]]:
    """The audio files under a folder in order, and how much else there is, by its kind."""
    songs, others = [], Counter()

    def unreadable(_: OSError) -> None:
        others["folders that cannot be read"] += 1

    for folder, folders, files in os.walk(root, onerror=unreadable):
        kinds = {name: _kind_of_folder(Path(folder, name), out) for name in folders}
        folders[:] = [name for name, kind in kinds.items() if kind is None]
        others.update(kind for kind in kinds.values() if kind)
        for path in (Path(folder, name) for name in files):
            if kind := _kind_of_file(path):
                others[kind] += 1
            else:
                songs.append(path)
    return sorted(songs), others


def _kind_of_folder(path: Path, out: Path) -> str | None:
    """Why a folder is not looked into; None if it is."""
    if _is_hidden(path):
        return "hidden"
    if path.is_symlink():
        return "linked folders"
    return "folder of results" if path.resolve() == out else None


def _kind_of_file(path: Path) -> str | None:
    """Why a file is no song; None if it is one."""
    if _is_hidden(path):
        return "hidden"
    return None if path.suffix.lower() in AUDIO else "not audio"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == MAC_COMPANIONS
