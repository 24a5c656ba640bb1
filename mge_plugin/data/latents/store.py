"""A folder of latents: where each song's file is, written whole, and the index of all.

    OUT/store.json                                    what all songs have in common
    OUT/index.json                                    the headers, so that they are read once
    OUT/minislakh/train/Track00001.safetensors        a song, see song.py
    OUT/shards/train-000000.tar                       the same in WebDataset shards, if asked for

Nothing else is needed beside a song's file: index and store can be made anew from the headers.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.latents.song import HEADER, LatentSong, StoreInfo
from mge_plugin.files import file_stem

logger = logging.getLogger(__name__)

ENDING = ".safetensors"
SONG = "song"  # owner of the files of songs
THREADS = 8  # headers read at a time: on a network disk each waits


class LatentsError(ValueError):
    """A file of latents that cannot be used, and why.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.path = path


@dataclass(frozen=True)
class Store:
    """A folder of latents."""

    root: Path

    def song_path(self, corpus: str, split: str, song_id: str) -> Path:
        """The file of a song."""
        return self.root / safe_name(corpus) / safe_name(split) / f"{safe_name(song_id)}{ENDING}"

    def info(self) -> StoreInfo | None:
        """What its songs have in common, None of a new folder."""
        path = self.root / "store.json"
        if not path.is_file():
            return None
        try:
            return StoreInfo.read(read_json(path))
        except TypeError as error:
            raise ConfigError(f"{path}: not the description of a store ({error})") from error

    def claim(self, info: StoreInfo, owner: str) -> None:
        """Begin or go on; latents made in another way must not be mixed and raise ConfigError."""
        sweep(self.root, owner)
        there = self.info()
        if there is None:
            text = json.dumps(asdict(info), indent=4)
            write_owned(self.root / "store.json", text.encode(), owner)
        elif differences := there.differences(info):
            what = "; ".join(differences)
            raise ConfigError(f"{self.root}: latents made in another way are there: {what}")

    def write(self, path: Path, song: LatentSong, tensors: Mapping[str, Tensor]) -> None:
        """Write a song's file, whole or not at all; the same content gives the same bytes.

        One process alone writes a song, so what an earlier one left of it is written over.
        """
        content = save(dict(tensors), metadata={HEADER: song.to_json()})
        write_owned(path, content, SONG)

    def songs(self, owner: str | None = None) -> dict[Path, LatentSong]:
        """Every song by its file, in order; headers are remembered in `index.json`."""
        remembered = self._remembered()
        paths = sorted(self.root.glob(f"*/*/*{ENDING}"))
        stamps = {path: _stamp(path) for path in paths}
        entries = {path: remembered.get(self._name(path), {}) for path in paths}
        new = [path for path in paths if entries[path].get("stamp") != stamps[path]]
        with ThreadPoolExecutor(THREADS) as pool:
            read = dict(zip(new, pool.map(read_header, new), strict=True))
        songs = {
            path: read[path] if path in read else LatentSong.from_json(entries[path]["song"])
            for path in paths
        }
        if new or len(remembered) > len(paths):
            self._remember(songs, stamps, owner or f"pid{os.getpid()}")
        return songs

    def _remembered(self) -> dict[str, dict[str, Any]]:
        try:
            entries = json.loads((self.root / "index.json").read_bytes())
            return {name: {"stamp": e["stamp"], "song": e["song"]} for name, e in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s: index.json is made anew (%s)", self.root, error)
            return {}

    def _remember(
        self, songs: Mapping[Path, LatentSong], stamps: Mapping[Path, Any], owner: str
    ) -> None:
        entries = {
            self._name(path): {"stamp": stamps[path], "song": song.to_json()}
            for path, song in songs.items()
        }
        try:
            write_owned(self.root / "index.json", json.dumps(entries).encode(), owner)
        except OSError as error:
            logger.warning("%s: the index is not kept (%s)", self.root, error.strerror or error)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A song's file, of which only what is sliced is read; one that is broken raises."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise LatentsError(f"cannot be read as latents ({error})", path) from error


def read_header(path: Path) -> LatentSong:
    """A song without its tensors; a file that is cut or of another kind raises LatentsError."""
    with opened(path) as file:
        text = (file.metadata() or {}).get(HEADER)
    if text is None:
        raise LatentsError("holds no latents of `mge encode`", path)
    try:
        return LatentSong.from_json(text)
    except ValueError as error:
        raise LatentsError(str(error), path) from error


def safe_name(text: str) -> str:
    """A file name; one that had to be changed tells itself from others by a hash."""
    name = file_stem(text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_owned(path: Path, content: bytes, owner: str) -> None:
    """Like `write_file`, with a temporary name that tells who left it, see `sweep`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{owner}.tmp")
    partial.write_bytes(content)
    os.replace(partial, path)


def sweep(folder: Path, owner: str, name: str = "*") -> None:
    """Remove what a killed `owner` has left of the file `name`, or of any, in `folder`."""
    for path in folder.glob(f".{name}.{owner}.tmp"):
        path.unlink(missing_ok=True)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
