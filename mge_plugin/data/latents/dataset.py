"""Latents encoded ahead in SAT's form: `dataset_type: "mge_latents"`.

A dataset config of type `mge_latents`.

One training item from a song of latents: source, window, silence check, crop.

The same choices as for triplets of audio (paper, section E.1), in whole frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.reader import check_weights
from mge_plugin.data.latents.store import (
    LatentsError,
    LatentSong,
    Store,
    StoreInfo,
    Sum,
    Tensors,
    opened,
)
from mge_plugin.data.order import SongItems, label_prompts, loss_mask, order_of
from mge_plugin.data.triplets import MAX_TRIES, Asked, SourceConfig, absent_label, item_problems
from mge_plugin.prompts import TEMPLATE, template_problems
from mge_plugin.tracks import Track


@dataclass(frozen=True)
class LatentsEntry:
    """An entry of `datasets`: a folder that `mge encode` made, or shards of one."""

    id: str  # its name in messages
    path: str | None = None  # the folder
    shards: str | None = None  # or its shards: "latents/shards/train-{000000..000007}.tar", a URL
    split: str = "train"  # of the folder; shards are of one split
    corpora: tuple[str, ...] | None = None  # of the folder, only these ids
    exclude: tuple[str, ...] = ()  # songs of the folder, by id
    weight: float | None = None  # share of the items beside other folders; by default its windows

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    def _problems(self) -> list[str]:
        problems = []
        if (self.path is None) == (self.shards is None):
            problems.append("path and shards: expected one of them")
        if self.shards is not None and (self.corpora or self.exclude or self.weight is not None):
            problems.append("corpora, exclude, weight: not for shards")
        if self.weight is not None and self.weight <= 0:
            problems.append(f"weight: expected a number above 0, found {self.weight}")
        return problems


@dataclass(frozen=True)
class LatentsConfig:
    """A dataset config of type `mge_latents`."""

    dataset_type: Literal["mge_latents"]
    datasets: tuple[LatentsEntry, ...]  # folders, or shards
    seed: int = 0  # decides every choice
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # items an epoch; by default one a window of every song
    drop_last: bool = True  # leave out a last batch that is not full
    posterior: Literal["draw", "mean"] = "draw"  # of a VAE: drawn for each item, or its mean
    p_partial: float = 0.0  # share of items whose mixture is a partial sum of `mge encode`
    source: SourceConfig = field(default_factory=SourceConfig)  # what is asked
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn an item; paper: this one
    shuffle_buffer: int = 1000  # items of shards that are kept to be shuffled

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    @property
    def from_shards(self) -> bool:
        """Whether songs are streamed from shards."""
        return any(entry.shards is not None for entry in self.datasets)

    def _problems(self) -> list[str]:
        problems = [*check_weights(self.datasets), *template_problems(self.templates)]
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
            problems.append("epoch_items: needed with shards, which do not say how many they hold")
        return problems


@dataclass(frozen=True)
class LatentForm:
    """What the model takes."""

    frames: int  # window length
    silence_db: float = -60.0  # a window below this RMS is silent, dBFS
    p_partial: float = 0.0  # share of items whose mixture is a partial sum, if any is encoded
    draw: bool = True  # draw from the posterior where its deviation is stored; or take its mean
    source: SourceConfig = field(default_factory=SourceConfig)  # what is asked
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn an item
    labels: tuple[str, ...] = ()  # of all songs: what may be asked though it is absent

    @classmethod
    def of(cls, config: LatentsConfig, frames: int, labels: tuple[str, ...]) -> "LatentForm":
        """A dataset config's, for windows of so many frames."""
        draw = config.posterior == "draw"
        return cls(
            frames,
            config.silence_db,
            config.p_partial,
            draw,
            config.source,
            config.templates,
            labels,
        )


@dataclass(frozen=True)
class LatentWindow:
    """One choice: this stem (or none) of this mixture of a song's stems, from this frame."""

    song: LatentSong
    mixture: Sum
    source: int | None
    start: int
    sounding: tuple[int, ...]  # the stems that sound in it
    absent: str | None = None  # a label that is asked for though nothing of it sounds

    @property
    def rows(self) -> dict[Track, int | None]:
        """Each track's row in `latents`; None is silence."""
        song = self.song
        source = None if self.source is None else song.row((self.source,))
        submixture = song.row(tuple(i for i in self.mixture if i != self.source))
        mixture = song.row(self.mixture)
        return {Track.MIXTURE: mixture, Track.SUBMIXTURE: submixture, Track.SOURCE: source}

    @property
    def labels(self) -> dict[Track, tuple[str, ...]]:
        """What sounds in each track; nothing is known of a mixture alone."""
        if self.song.mixture_only:
            return dict.fromkeys(Track, ())
        source = {self.source} & set(self.sounding)
        stems = {
            Track.MIXTURE: set(self.sounding),
            Track.SUBMIXTURE: set(self.sounding) - source,
            Track.SOURCE: source,
        }
        names = {
            track: {self.song.stems[i].label for i in numbers} for track, numbers in stems.items()
        }
        return {track: tuple(sorted(labels)) for track, labels in names.items()}


def draw_window(
    song: LatentSong, tensors: Tensors, form: LatentForm, rng: np.random.Generator
) -> LatentWindow:
    """Choose source and mixture, then up to 10 starts until the source sounds.

    If it never does, the last start is used: a song may rest. Where all labels sound, an item that
    should request an absent one has a source like other items.
    """
    power = tensors("power")[:].numpy()
    last_start = max(0, song.frames - form.frames)

    def sounding_from(start: int, mixture: Sum) -> tuple[int, ...]:
        sounding = _sounding(power[:, start : start + form.frames], form)
        return tuple(i for i in sounding if i in mixture)

    if form.source.p_absent and not song.mixture_only and rng.random() < form.source.p_absent:
        start = int(rng.integers(last_start + 1))
        mixture = _choose_mixture(song, song.sums, form, rng)
        sounding = sounding_from(start, mixture)
        absent = absent_label([song.stems[i].label for i in sounding], form.labels, rng)
        if absent is not None:
            return LatentWindow(song, mixture, None, start, sounding, absent)
    source = _choose_source(song, form.source, rng)
    mixtures = () if source is None else song.mixtures_with(source)
    mixture = _choose_mixture(song, mixtures, form, rng)
    for _ in range(MAX_TRIES):
        start = int(rng.integers(last_start + 1))
        sounding = sounding_from(start, mixture)
        if source in sounding or source is None:
            break
    return LatentWindow(song, mixture, source, start, sounding)


def _choose_mixture(
    song: LatentSong, mixtures: Sequence[Sum], form: LatentForm, rng: np.random.Generator
) -> Sum:
    """All stems, or for a share `p_partial` of the items one of `mixtures`."""
    if not form.p_partial or not mixtures or rng.random() >= form.p_partial:
        return song.every
    return mixtures[rng.integers(len(mixtures))]


def _choose_source(song: LatentSong, config: SourceConfig, rng: np.random.Generator) -> int | None:
    """A stem, uniform over stems or over labels; None of a mixture alone."""
    choices = song.sources
    if config.choose == "labels" and choices:
        labels = sorted({song.stems[i].label for i in choices})
        label = labels[rng.integers(len(labels))]
        choices = [i for i in choices if song.stems[i].label == label]
    return choices[rng.integers(len(choices))] if choices else None


def cut(
    window: LatentWindow, tensors: Tensors, form: LatentForm, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Any]]:
    """The window as reals (3 * channels, frames) float32, unscaled as SAT's, and its metadata."""
    kept = min(form.frames, window.song.frames - window.start)
    stored, silence = tensors("latents"), tensors("silence")[:]
    tracks = [
        _cut_row(stored, silence, row, window.start, kept, form.frames)
        for row in window.rows.values()
    ]
    latents = torch.stack(tracks)
    mean, *deviation = latents.unbind(2)
    if deviation and form.draw:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        mean = mean + deviation[0] * torch.randn(mean.shape, generator=generator)
    padding_mask = torch.arange(form.frames) < kept
    template = form.templates[rng.integers(len(form.templates))]
    metadata = _describe(window, template) | {"padding_mask": [padding_mask]}
    if window.song.store.clap is not None:
        metadata["audio_embedding"] = _embeddings(window, tensors)
    return rearrange(mean, "k n c -> (k c) n").contiguous(), metadata


def _sounding(power: np.ndarray, form: LatentForm) -> tuple[int, ...]:
    """Stems whose RMS in `power` (stem, frame) is above silence, as that after the end is."""
    threshold = 10 ** (form.silence_db / 10) * form.frames
    return tuple(np.flatnonzero(power.sum(axis=1, dtype=np.float64) > threshold).tolist())


def _cut_row(
    stored: Any, silence: Tensor, row: int | None, start: int, kept: int, frames: int
) -> Tensor:
    """(frame, part, channel) float32: the song's frames as far as it goes, then silence's.

    A worker may be started within a trainer's autocast, which knows no float16 on the CPU.
    """
    padding = silence.float().expand(frames - (0 if row is None else kept), *silence.shape)
    if row is None:
        return padding
    return torch.cat([stored[row, start : start + kept].float(), padding])


def _embeddings(window: LatentWindow, tensors: Tensors) -> dict[str, Tensor]:
    """Each track's stored audio embedding (width,) nearest to the window in time."""
    song, grid = window.song, tensors("clap")
    info = song.store.clap
    places = grid.get_shape()[1] if hasattr(grid, "get_shape") else grid.shape[1]
    nearest = round(window.start * song.store.ratio / song.store.sample_rate / info.every)
    place = min(nearest, places - 1)
    return {
        track.label: (tensors("clap_silence")[:] if row is None else grid[row, place]).float()
        for track, row in window.rows.items()
    }


def _describe(window: LatentWindow, template: str) -> dict[str, Any]:
    """Metadata as that of a triplet of audio; `seconds_total` is the song's, not the window's."""
    song, labels = window.song, window.labels
    asked = labels if window.absent is None else labels | {Track.SOURCE: (window.absent,)}
    return {
        "prompt": label_prompts(asked, template),
        "labels": {track.label: list(names) for track, names in labels.items()},
        "path": song.path,
        "mixture_only": song.mixture_only,
        "loss_mask": loss_mask(song.mixture_only),
        "source": None if window.source is None else song.stems[window.source].path,
        "absent": window.absent is not None,
        "seconds_start": window.start * song.store.ratio / song.store.sample_rate,
        "seconds_total": song.seconds,
    }


_SAME = ("autoencoder", "sample_rate", "audio_channels", "ratio", "channels")  # in all folders

_Songs = dict[Path, LatentSong]


class _LatentsDataset(SongItems):
    """Item number -> (reals (3 * channels, frames), metadata).

    What is drawn from the posterior is the number's too. A file is open only while an item is cut
    from it.
    """

    unreadable = LatentsError
    pieces = "files of latents"
    stand_in = "song"

    def __init__(
        self,
        folders: Sequence[_Songs],
        form: LatentForm,
        seed: int,
        weights: Sequence[float | None],
        size: int | None = None,
    ) -> None:
        songs = [entry for songs in folders for entry in songs.items()]
        windows = [
            np.array([max(1, song.frames // form.frames) for song in songs.values()])
            for songs in folders
        ]
        super().__init__(songs, order_of(windows, weights, seed), seed, size)
        self.form = form

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        return self.drawn(item)[0]

    def draw(self, number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        """An item of the song with this number."""
        path, song = self.songs[number]
        with opened(path) as file:
            window = draw_window(song, file.get_slice, self.form, rng)
            return cut(window, file.get_slice, self.form, rng)


def open_latents(config: LatentsConfig, asked: Asked) -> _LatentsDataset:
    """The dataset of a config for a model; latents that do not fit it raise ConfigError."""
    folders = open_folders(config.datasets)
    info = next(iter(folders[0].values())).store
    if problems := info.misfits(asked):
        raise ConfigError(*problems)
    labels = _labels_of(song for songs in folders for song in songs.values())
    form = LatentForm.of(config, asked.sample_size // info.ratio, labels)
    weights = [entry.weight for entry in config.datasets]
    return _LatentsDataset(folders, form, config.seed, weights, config.epoch_items)


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


def _labels_of(songs: Iterable[LatentSong]) -> tuple[str, ...]:
    """What may be asked of some song, in order."""
    return tuple(sorted({song.stems[i].label for song in songs for i in song.sources}))


def _open(entry: LatentsEntry) -> _Songs:
    root = Path(entry.path).expanduser()
    if not root.is_dir():
        raise ConfigError(f"datasets: {entry.id!r}: no such folder {entry.path!r}")
    every = Store(root).songs()
    chosen = {path: song for path, song in every.items() if _is_asked(song, entry)}
    if not chosen:
        splits = sorted({song.split for song in every.values()})
        raise ConfigError(
            f"datasets: {entry.id!r}: {root} has no song of split {entry.split!r} that is asked "
            f"for; it holds {len(every)} songs of splits {splits}, made by `mge encode`"
        )
    return chosen


def _is_asked(song: LatentSong, entry: LatentsEntry) -> bool:
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
