"""A folder of latents: a safetensors file per song, and an index of their headers.

    OUT/store.json                                    what all songs have in common
    OUT/index.json                                    the headers, so that they are read once
    OUT/minislakh/train/Track00001.safetensors        a song
    OUT/shards/train-000000.tar                       the same in WebDataset shards (--shards)

A song's file is complete: index and store can be written again from the files' headers.

| tensor | shape | content |
|---|---|---|
| latents | (sum, frame, part, channel) | part 0 the mean, part 1 the deviation if it is stored |
| power | (stem, frame) float32 | mean square of the stem's samples of a frame |
| silence | (part, channel) | the latents of a frame amid silence |
| clap | (sum, grid, width) | an audio embedding every few seconds, if there are any |
| clap_silence | (width,) | the embedding of silence |

A sum is some of the stems together: all (the mixture), one (a source) or all but one (its
submixture). Each is stored once: of two stems, each is the other's submixture.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.songs import Part, Song
from mge_plugin.data.triplets import Format
from mge_plugin.files import (
    file_stem,
    read_index,
    remove_abandoned,
    stamp,
    write_file,
    write_index,
    write_json,
)

_logger = logging.getLogger(__name__)

_FORMAT = 1  # of the files; another number cannot be read
_HEADER = "mge_latents"  # the key of the header's metadata
_ENDING = ".safetensors"
_THREADS = 8  # headers read at a time: on a network disk each waits

Sum = tuple[int, ...]  # numbers of stems
Tensors = Callable[[str], Any]  # a tensor by name, or what can be sliced without reading all


class LatentsError(ValueError):
    """A file of latents that cannot be used, and why.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.path = path


@dataclass(frozen=True)
class GridInfo:
    """The audio embeddings of a store."""

    fingerprint: str  # of the embedder's config, files and weights
    seconds: float  # of audio in one embedding
    every: float  # seconds from one to the next
    width: int


@dataclass(frozen=True)
class StoreInfo:
    """What every song of a store has in common; latents that differ in it must not be mixed."""

    autoencoder: str  # fingerprint of its config and weights
    sample_rate: int  # Hz
    audio_channels: int
    ratio: int  # samples per frame
    channels: int  # of the latents
    posterior: str  # full: mean and deviation; mean
    dtype: str
    precision: str  # of the encoder
    clap: GridInfo | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "StoreInfo":
        """From JSON."""
        clap = values.get("clap")
        return cls(**{**values, "clap": None if clap is None else GridInfo(**clap)})

    def differences(self, other: "StoreInfo", names: tuple[str, ...] = ()) -> list[str]:
        """A phrase for each value (of `names`, or of all) that differs from the other's."""
        names = names or tuple(field.name for field in fields(self))
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return [f"{n} is {a!r} and {b!r}" for n, (a, b) in pairs.items() if a != b]

    def misfits(self, form: Format) -> list[str]:
        """Why a model of this format cannot be trained on these latents."""
        pairs = {
            "sample_rate": (form.sample_rate, self.sample_rate),
            "audio_channels": (form.channels, self.audio_channels),
        }
        problems = [
            f"{name}: the model has {model}, the latents were made of audio with {ours}"
            for name, (model, ours) in pairs.items()
            if model != ours
        ]
        if form.samples % self.ratio:
            problems.append(
                f"sample_size {form.samples} is not a whole number of latent frames of "
                f"{self.ratio} samples"
            )
        return problems


@dataclass(frozen=True)
class LatentStem:
    """A stem without its sound."""

    label: str
    path: str  # its first file, relative to the song's folder where it is inside
    queryable: bool = True  # may be the source


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
    def every(self) -> Sum:
        """All stems: the mixture."""
        return tuple(range(len(self.stems)))

    def mixtures_with(self, stem: int) -> tuple[Sum, ...]:
        """The encoded mixtures with `stem` whose other stems together are encoded too."""
        encoded = set(self.sums)
        return tuple(
            mixture
            for mixture in self.sums
            if stem in mixture and tuple(i for i in mixture if i != stem) in encoded
        )

    def row(self, stems: Sum) -> int:
        """The row of a sum in `latents` and `clap`."""
        return self.sums.index(stems)

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "LatentSong":
        """Read a header; a text that is not one raises ValueError."""
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ValueError("another format of latents")
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
        [stem.label, stem.queryable, [_described(song, part) for part in stem.parts]]
        for stem in song.stems
    ]
    text = json.dumps([song.id, song.mixture_only, stems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(song: Song, part: Part) -> list[Any]:
    return [relative_path(song, part.path), part.sample_rate, part.num_frames, part.stream]


def relative_path(song: Song, path: Path) -> str:
    """A file's path in the song's folder; its name if it is elsewhere."""
    inside = path.is_relative_to(song.path) and path != song.path
    return path.relative_to(song.path).as_posix() if inside else path.name


def tensors_problem(song: LatentSong, tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the shapes of a song's tensors, if anything."""
    parts = 2 if song.store.posterior == "full" else 1
    expected = {
        "latents": (len(song.sums), song.frames, parts, song.store.channels),
        "power": (len(song.stems), song.frames),
        "silence": (parts, song.store.channels),
    }
    for name, shape in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            return f"{name}: expected shape {shape}, found {found}"
    return None


@dataclass(frozen=True)
class Store:
    """A folder of latents."""

    root: Path

    def song_path(self, corpus: str, split: str, song_id: str) -> Path:
        """The file of a song."""
        return self.root / safe_name(corpus) / safe_name(split) / f"{safe_name(song_id)}{_ENDING}"

    def info(self) -> StoreInfo | None:
        """What its songs have in common, None for a new folder."""
        path = self.root / "store.json"
        if not path.is_file():
            return None
        try:
            return StoreInfo.read(read_json(path))
        except TypeError as error:
            raise ConfigError(f"{path}: not the description of a store ({error})") from error

    def claim(self, info: StoreInfo) -> None:
        """Start or resume; a folder of latents that differ in `info` raises ConfigError."""
        remove_abandoned(self.root)
        remove_abandoned(self.root, "*/*/.*.tmp")
        present = self.info()
        if present is None:
            write_json(self.root / "store.json", asdict(info), 4)
        elif differences := present.differences(info):
            what = "; ".join(differences)
            raise ConfigError(f"{self.root}: has latents made in another way: {what}")

    def write(self, path: Path, song: LatentSong, tensors: Mapping[str, Tensor]) -> None:
        """Write a song's file, whole or not at all; the same content gives the same bytes."""
        write_file(path, save(dict(tensors), metadata={_HEADER: song.to_json()}))

    def songs(self) -> dict[Path, LatentSong]:
        """Every song by its file, in order; headers are remembered in `index.json`."""
        index = self.root / "index.json"
        remembered = read_index(index)
        files = sorted(self.root.glob(f"*/*/*{_ENDING}"))
        paths = {path.relative_to(self.root).as_posix(): path for path in files}
        stamps = {name: stamp(path)[:2] for name, path in paths.items()}
        known = {
            name: song
            for name in paths
            if (song := _remembered(remembered.get(name), stamps[name])) is not None
        }
        new = [name for name in paths if name not in known]
        with ThreadPoolExecutor(_THREADS) as pool:
            known |= zip(new, pool.map(read_header, map(paths.__getitem__, new)), strict=True)
        songs = {name: known[name] for name in paths}
        if new or len(remembered) > len(paths):
            entries = {n: {"stamp": stamps[n], "song": song.to_json()} for n, song in songs.items()}
            write_index(index, entries)
        return {paths[name]: song for name, song in songs.items()}


def _remembered(entry: Any, stamp: list[int]) -> LatentSong | None:
    """The song of an entry of the index, if its file has not changed."""
    try:
        return LatentSong.from_json(entry["song"]) if entry["stamp"] == stamp else None
    except (KeyError, TypeError, ValueError):
        return None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A song's file, of which only what is sliced is read; a broken one raises LatentsError."""
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
        raise LatentsError("has no latents of `mge encode`", path)
    try:
        return LatentSong.from_json(text)
    except ValueError as error:
        raise LatentsError(str(error), path) from error


def safe_name(text: str) -> str:
    """A file name; one that had to be changed gets a hash that distinguishes it from others."""
    name = file_stem(text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
