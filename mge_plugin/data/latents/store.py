"""A folder of latents: where each song's file is, written whole, and the index of all.

    OUT/store.json                                    what all songs have in common
    OUT/index.json                                    the headers, so that they are read once
    OUT/minislakh/train/Track00001.safetensors        a song, see song.py
    OUT/shards/train-000000.tar                       the same in WebDataset shards, if asked for

Nothing else is needed beside a song's file: index and store can be made anew from the headers.

One song of latents: a safetensors file whose header says what it is.

| tensor | shape | content |
|---|---|---|
| latents | (sum, frame, part, channel) | part 0 the mean, part 1 the deviation if it is kept |
| power | (stem, frame) float32 | mean square of the stem's samples of a frame |
| silence | (part, channel) | the latents of a frame amid silence |
| clap | (sum, grid, width) | an audio embedding every so many seconds, if there are any |
| clap_silence | (width,) | that of silence |

A sum is some of the stems together: all (the mixture), one (a source) or all but one (its
submixture). Each is stored once: of two stems, each is the other's submixture.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Asked
from mge_plugin.files import file_stem

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the files; another number cannot be read
_HEADER = "mge_latents"  # the key of the header's metadata

Sum = tuple[int, ...]  # numbers of stems


class Tensors(Protocol):
    """Gives a tensor, or what can be sliced like one without reading all of it."""

    def __call__(self, name: str) -> Any: ...


@dataclass(frozen=True)
class GridInfo:
    """The audio embeddings of a store."""

    fingerprint: str  # of the embedder's config and files
    seconds: float  # that an embedding hears
    every: float  # seconds from one to the next
    width: int


@dataclass(frozen=True)
class StoreInfo:
    """What every song of a store has in common; latents that differ in it must not be mixed."""

    autoencoder: str  # fingerprint of its config and weights
    sample_rate: int  # Hz
    audio_channels: int
    ratio: int  # samples a frame
    channels: int  # of the latents
    posterior: str  # full: mean and deviation; mean
    dtype: str
    precision: str  # in which the encoder ran
    clap: GridInfo | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "StoreInfo":
        """From JSON."""
        clap = values.get("clap")
        return cls(**{**values, "clap": None if clap is None else GridInfo(**clap)})

    def differences(self, other: "StoreInfo", names: tuple[str, ...] = ()) -> list[str]:
        """A phrase for each value (of `names`, or of all) that `other` has another of."""
        names = names or tuple(field.name for field in fields(self))
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return [f"{n} is {a!r} and {b!r}" for n, (a, b) in pairs.items() if a != b]

    def misfits(self, asked: Asked) -> list[str]:
        """What keeps these latents from a model."""
        pairs = {
            "sample_rate": (asked.sample_rate, self.sample_rate),
            "audio_channels": (asked.audio_channels, self.audio_channels),
        }
        problems = [
            f"{name}: the model has {model}, the latents were made of audio with {ours}"
            for name, (model, ours) in pairs.items()
            if model != ours
        ]
        if asked.sample_size % self.ratio:
            problems.append(
                f"sample_size {asked.sample_size} is not a whole number of latent frames of "
                f"{self.ratio} samples"
            )
        return problems


@dataclass(frozen=True)
class LatentStem:
    """What is kept of a stem beside its sound."""

    label: str
    path: str  # its first file, relative to the song's folder where it is inside
    queryable: bool = True


@dataclass(frozen=True)
class LatentSong:
    """A song's header."""

    id: str
    corpus: str
    split: str
    path: str  # where its audio was
    seconds: float  # of the whole song
    frames: int
    stems: tuple[LatentStem, ...]
    sums: tuple[Sum, ...]  # the rows of `latents`
    content: str  # fingerprint of the files it was made from, see `content_of`
    store: StoreInfo
    mixture_only: bool = False

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the stems that may be asked for."""
        asked = [i for i, stem in enumerate(self.stems) if stem.queryable]
        return () if self.mixture_only else tuple(asked)

    @property
    def every(self) -> Sum:
        """All stems: the mixture."""
        return tuple(range(len(self.stems)))

    def mixtures_with(self, stem: int) -> tuple[Sum, ...]:
        """The encoded mixtures of which `stem` and the rest are encoded too."""
        encoded = set(self.sums)
        return tuple(
            mixture
            for mixture in self.sums
            if stem in mixture and tuple(i for i in mixture if i != stem) in encoded
        )

    def row(self, stems: Sum) -> int:
        """Where a sum is in `latents` and `clap`."""
        return self.sums.index(stems)

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "LatentSong":
        """Read a header; one that is none raises ValueError."""
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ValueError("it is of another format")
            values["stems"] = tuple(LatentStem(**stem) for stem in values["stems"])
            values["sums"] = tuple(tuple(stems) for stems in values["sums"])
            return cls(**{**values, "store": StoreInfo.read(values["store"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is incomplete ({error})") from error


def sums_of(song: Song, partial_sums: int = 0) -> tuple[Sum, ...]:
    """The sums of a song that are encoded: mixture, every source and every submixture, each once.

    In `partial_sums` orders the stems are added one by one, and every sum on the way is encoded
    too: with it a small mixture can be given, and any of its stems may be the last one added.
    """
    every = tuple(range(len(song.stems)))
    if song.mixture_only:
        return (every,)
    sources = [i for i in every if song.stems[i].queryable]
    pairs = [((i,), tuple(j for j in every if j != i)) for i in sources]
    sums = [every, *(stems for pair in pairs for stems in pair)]
    rng = np.random.default_rng(zlib.crc32(song.id.encode()))
    for _ in range(partial_sums):
        order = rng.permutation(len(every)).tolist()
        sums += [tuple(sorted(order[:count])) for count in range(1, len(order))]
    return tuple(dict.fromkeys(sums))


def content_of(song: Song) -> str:
    """A fingerprint of a song's stems: their labels and files, wherever the corpus is."""
    stems = [
        [stem.label, stem.queryable, [_part(song, part) for part in stem.parts]]
        for stem in song.stems
    ]
    text = json.dumps([song.id, song.mixture_only, stems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def relative_path(song: Song, path: Any) -> str:
    """A file's place in the song's folder; its name where it is elsewhere."""
    inside = path.is_relative_to(song.path) and path != song.path
    return path.relative_to(song.path).as_posix() if inside else path.name


def tensors_problem(song: LatentSong, shapes: Mapping[str, Tensor]) -> str | None:
    """In words, what is wrong with a file's tensors by name; None if nothing is."""
    parts = 2 if song.store.posterior == "full" else 1
    expected = {
        "latents": (len(song.sums), song.frames, parts, song.store.channels),
        "power": (len(song.stems), song.frames),
        "silence": (parts, song.store.channels),
    }
    for name, shape in expected.items():
        found = tuple(shapes[name].shape) if name in shapes else None
        if found != shape:
            return f"{name}: expected shape {shape}, found {found}"
    return None


def _part(song: Song, part: Any) -> list[Any]:
    return [relative_path(song, part.path), part.sample_rate, part.num_frames, part.stream]


_ENDING = ".safetensors"
SONG = "song"  # owner of the files of songs
_THREADS = 8  # headers read at a time: on a network disk each waits


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
        return self.root / safe_name(corpus) / safe_name(split) / f"{safe_name(song_id)}{_ENDING}"

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
            _write_owned(self.root / "store.json", text.encode(), owner)
        elif differences := there.differences(info):
            what = "; ".join(differences)
            raise ConfigError(f"{self.root}: latents made in another way are there: {what}")

    def write(self, path: Path, song: LatentSong, tensors: Mapping[str, Tensor]) -> None:
        """Write a song's file, whole or not at all; the same content gives the same bytes.

        One process alone writes a song, so what an earlier one left of it is written over.
        """
        content = save(dict(tensors), metadata={_HEADER: song.to_json()})
        _write_owned(path, content, SONG)

    def songs(self, owner: str | None = None) -> dict[Path, LatentSong]:
        """Every song by its file, in order; headers are remembered in `index.json`."""
        remembered = self._remembered()
        paths = sorted(self.root.glob(f"*/*/*{_ENDING}"))
        stamps = {path: _stamp(path) for path in paths}
        entries = {path: remembered.get(self._name(path), {}) for path in paths}
        new = [path for path in paths if entries[path].get("stamp") != stamps[path]]
        with ThreadPoolExecutor(_THREADS) as pool:
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
            _write_owned(self.root / "index.json", json.dumps(entries).encode(), owner)
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
        text = (file.metadata() or {}).get(_HEADER)
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


def _write_owned(path: Path, content: bytes, owner: str) -> None:
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
