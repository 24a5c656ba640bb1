"""Pre-encoded triplets in SAT's form: `dataset_type: "mge_latents"`.

Source and window are chosen as for audio (`mge_plugin.data.triplets`), in whole frames.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.reader import (
    REPLACED_IN_DATASETS,
    CorpusConfig,
    shares,
    weight_problems,
)
from mge_plugin.data.latents.store import (
    LatentsError,
    LatentSong,
    Store,
    StoreInfo,
    Sum,
    Tensors,
    opened,
)
from mge_plugin.data.order import Item, SongItems, SongOrder
from mge_plugin.data.triplets import (
    Format,
    SourceConfig,
    Window,
    describe,
    draw_window,
    item_problems,
)
from mge_plugin.prompts import TEMPLATE, template_problems
from mge_plugin.tracks import Track

_SAME = ("autoencoder", "sample_rate", "audio_channels", "ratio", "channels")  # in all folders

_Labels = dict[str, tuple[str, ...]]  # by corpus, the labels of its sources
_Songs = dict[Path, LatentSong]


@dataclass(frozen=True)
class LatentsEntry:
    """An entry of `datasets`: a folder that `mge encode` wrote, or its shards."""

    id: str  # its name in messages
    path: str | None = None  # the folder
    shards: str | None = None  # or its shards: "latents/shards/train-{000000..000007}.tar", a URL
    index: str | None = None  # index.json of shards that are not local files: exact resuming
    split: str = "train"  # of the folder; shards have one split
    corpora: tuple[str, ...] | None = None  # of the folder, only these ids
    exclude: tuple[str, ...] = ()  # songs of the folder, by id
    weight: float | Literal["equal"] | None = None  # share of the items; by default by windows

    REPLACED: ClassVar[dict[str, str]] = CorpusConfig.REPLACED

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    def _problems(self) -> list[str]:
        problems = []
        if (self.path is None) == (self.shards is None):
            problems.append("path and shards: expected one of them")
        if self.shards is not None and (self.corpora or self.exclude or self.weight is not None):
            problems.append("corpora, exclude, weight: not for shards")
        if self.shards is None and self.index is not None:
            problems.append("index: only for shards")
        return problems


@dataclass(frozen=True)
class LatentsConfig:
    """A dataset config of type `mge_latents`."""

    dataset_type: Literal["mge_latents"]
    datasets: tuple[LatentsEntry, ...]  # folders, or shards
    seed: int = 0  # decides every choice
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # items per epoch; by default one per window of every song
    drop_last: bool = True  # round an epoch down to whole batches, not up
    posterior: Literal["draw", "mean"] = "draw"  # of a VAE: drawn for each item, or its mean
    p_partial: float = 0.0  # share of items whose mixture is a partial sum of `mge encode`
    source: SourceConfig = field(default_factory=SourceConfig)  # which stem is the source
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn per item; paper: this one
    shuffle_buffer: int = 1000  # items of shards that are shuffled together

    REPLACED: ClassVar[dict[str, str]] = REPLACED_IN_DATASETS

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    @property
    def from_shards(self) -> bool:
        """Whether songs are streamed from shards."""
        return any(entry.shards is not None for entry in self.datasets)

    def _problems(self) -> list[str]:
        problems = [*weight_problems(self.datasets), *template_problems(self.templates)]
        if not self.datasets:
            problems.append("datasets: expected one entry or more, found none")
        problems += item_problems(self.seed, self.epoch_items)
        if self.source.max_stems > 1 or self.source.groups:
            problems.append("source: latents are of single stems, max_stems and groups need audio")
        if not 0.0 <= self.p_partial <= 1.0:
            problems.append(f"p_partial: expected a share from 0 to 1, found {self.p_partial}")
        if self.shuffle_buffer < 1:
            problems.append(f"shuffle_buffer: expected 1 or more, found {self.shuffle_buffer}")
        if self.from_shards and any(entry.path is not None for entry in self.datasets):
            problems.append("datasets: folders and shards cannot be mixed")
        if self.from_shards and self.epoch_items is None:
            problems.append("epoch_items: needed with shards")
        return problems


def cut_item(
    song: LatentSong,
    tensors: Tensors,
    config: LatentsConfig,
    frames: int,
    labels: Sequence[str],
    rng: np.random.Generator,
) -> Item:
    """Choose a window of a song and cut it: reals (3 * channels, frames) float32, and metadata.

    The latents are unscaled, as SAT stores them. `labels` are those of sources in the corpus.
    """
    power = tensors("power")[:].numpy()
    threshold = 10 ** (config.silence_db / 10) * frames

    def sounds(stem: int, start: int) -> bool:
        return power[stem, start : start + frames].sum(dtype=np.float64) > threshold

    def mixture(source: int | None) -> Sum:
        """All stems, or for a share `p_partial` of the items an encoded part of them."""
        if song.mixture_only or not config.p_partial:
            return song.every
        choices = song.sums if source is None else song.mixtures_with(source)
        is_partial = choices and rng.random() < config.p_partial
        return choices[rng.integers(len(choices))] if is_partial else song.every

    last = max(0, song.frames - frames)
    window = draw_window(song, last, sounds, rng, config.source, labels, mixture)
    sounding = {stem for stem in window.stems if sounds(stem, window.start)}
    return cut(window, tensors, config, frames, sounding, rng)


def cut(
    window: Window[LatentSong],
    tensors: Tensors,
    config: LatentsConfig,
    frames: int,
    sounding: set[int],
    rng: np.random.Generator,
) -> Item:
    """The item of a window of which the stems `sounding` are not silent."""
    song, source = (
        window.song,
        None if window.song.mixture_only else next(iter(window.sources), None),
    )
    rows = {
        Track.MIXTURE: song.row(window.stems),
        Track.SUBMIXTURE: song.row(tuple(i for i in window.stems if i != source)),
        Track.SOURCE: None if source is None else song.row((source,)),  # silence
    }
    kept = min(frames, song.frames - window.start)
    stored, silence = tensors("latents"), tensors("silence")[:]
    tracks = [_cut_row(stored, silence, row, window.start, kept, frames) for row in rows.values()]
    mean, *deviation = torch.stack(tracks).unbind(2)
    if deviation and config.posterior == "draw":
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        mean = mean + deviation[0] * torch.randn(mean.shape, generator=generator)
    metadata = describe(
        window,
        _labels(song, sounding, source),
        None if source is None else song.stems[source].path,
        window.start * song.store.ratio / song.store.sample_rate,
        config.templates[rng.integers(len(config.templates))],
    )
    metadata["padding_mask"] = [torch.arange(frames) < kept]
    if song.store.clap is not None:
        metadata["audio_embedding"] = _embeddings(window, rows, tensors, song.store.clap.every)
    return rearrange(mean, "k n c -> (k c) n").contiguous(), metadata


def _labels(
    song: LatentSong, sounding: set[int], source: int | None
) -> dict[Track, tuple[str, ...]]:
    """Labels of the stems that sound in each track; none for a song that is only a mixture."""
    if song.mixture_only:
        return dict.fromkeys(Track, ())
    stems = {
        Track.MIXTURE: sounding,
        Track.SUBMIXTURE: sounding - {source},
        Track.SOURCE: sounding & {source},
    }
    return {
        track: tuple(sorted({song.stems[i].label for i in numbers}))
        for track, numbers in stems.items()
    }


def _cut_row(
    stored: Any, silence: Tensor, row: int | None, start: int, kept: int, frames: int
) -> Tensor:
    """(frame, part, channel) float32: the song's frames up to its end, then those of silence.

    In float32 since a worker may be started within a trainer's autocast, which does not support
    float16 on the CPU.
    """
    padding = silence.float().expand(frames - (0 if row is None else kept), *silence.shape)
    if row is None:
        return padding
    return torch.cat([stored[row, start : start + kept].float(), padding])


def _embeddings(
    window: Window[LatentSong], rows: Mapping[Track, int | None], tensors: Tensors, every: float
) -> dict[str, Tensor]:
    """Each track's stored audio embedding (width,) nearest to the window in time."""
    store, grid = window.song.store, tensors("clap")
    places = grid.get_shape()[1] if hasattr(grid, "get_shape") else grid.shape[1]
    nearest = round(window.start * store.ratio / store.sample_rate / every)
    place = min(nearest, places - 1)
    return {
        track.label: (tensors("clap_silence")[:] if row is None else grid[row, place]).float()
        for track, row in rows.items()
    }


class _LatentsDataset(SongItems):
    """Item number -> (reals (3 * channels, frames), metadata).

    A file is open only while an item is cut from it.
    """

    unreadable = LatentsError

    def __init__(self, folders: Sequence[_Songs], config: LatentsConfig, frames: int) -> None:
        songs = [entry for songs in folders for entry in songs.items()]
        windows = [
            np.array([max(1, song.frames // frames) for song in songs.values()])
            for songs in folders
        ]
        order = SongOrder(windows, shares(config.datasets), config.seed)
        super().__init__(songs, order, config.seed, config.epoch_items)
        self.config = config
        self.frames = frames
        self.labels = labels_of(song for _, song in songs)

    def __getitem__(self, item: int) -> Item:
        return self.drawn(item)[0]

    def draw(self, number: int, rng: np.random.Generator) -> Item:
        """An item of the song with this number."""
        path, song = self.songs[number]
        with opened(path) as file:
            labels = self.labels[song.corpus]
            return cut_item(song, file.get_slice, self.config, self.frames, labels, rng)


def open_latents(config: LatentsConfig, form: Format) -> _LatentsDataset:
    """The dataset of a config for a model; latents that do not fit it raise ConfigError."""
    folders = open_folders(config.datasets)
    info = next(iter(folders[0].values())).store
    if problems := info.misfits(form):
        raise ConfigError(*problems)
    return _LatentsDataset(folders, config, form.samples // info.ratio)


def open_folders(entries: Sequence[LatentsEntry]) -> list[_Songs]:
    """The songs of every entry; nothing found, or latents of two kinds, raise ConfigError."""
    folders = [_open(entry) for entry in entries]
    infos = {entry.id: _info(songs) for entry, songs in zip(entries, folders, strict=True)}
    first, *others = infos.items()
    for name, info in others:
        if differences := first[1].differences(info, _SAME):
            what = "; ".join(differences)
            raise ConfigError(f"datasets: {first[0]!r} and {name!r} cannot be mixed: {what}")
        if _embedder(first[1]) != _embedder(info):
            raise ConfigError(
                f"datasets: {first[0]!r} and {name!r} have audio embeddings of different models"
            )
    return folders


def labels_of(songs: Iterable[LatentSong]) -> _Labels:
    """By corpus, the labels of its sources, in order."""
    labels: dict[str, set[str]] = defaultdict(set)
    for song in songs:
        sources = () if song.mixture_only else song.stems
        labels[song.corpus] |= {stem.label for stem in sources if stem.queryable}
    return {corpus: tuple(sorted(names)) for corpus, names in labels.items()}


def _open(entry: LatentsEntry) -> _Songs:
    root = Path(entry.path or "").expanduser()
    if not root.is_dir():
        raise ConfigError(f"datasets: {entry.id!r}: no such folder {entry.path!r}")
    every = Store(root).songs()
    chosen = {path: song for path, song in every.items() if _is_used(song, entry)}
    if not chosen:
        splits = sorted({song.split for song in every.values()})
        raise ConfigError(
            f"datasets: {entry.id!r}: {root} has no song of split {entry.split!r} with the "
            f"requested corpora; it has {len(every)} songs of splits {splits}"
        )
    return chosen


def _is_used(song: LatentSong, entry: LatentsEntry) -> bool:
    of_corpora = entry.corpora is None or song.corpus in entry.corpora
    return song.split == entry.split and of_corpora and song.id not in entry.exclude


def _info(songs: _Songs) -> StoreInfo:
    """What the songs of a folder have in common; two kinds in one raise ConfigError."""
    (first, song), *others = songs.items()
    for path, other in others:
        if differences := song.store.differences(other.store, _SAME):
            raise ConfigError(f"{first} and {path} cannot be mixed: {'; '.join(differences)}")
    return song.store


def _embedder(info: StoreInfo) -> str | None:
    return None if info.clap is None else info.clap.fingerprint
