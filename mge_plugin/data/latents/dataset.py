"""Latents encoded ahead in SAT's form: `dataset_type: "mge_latents"`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.batches import SongItems, order_of
from mge_plugin.data.latents.config import LatentsConfig, LatentsEntry
from mge_plugin.data.latents.song import LatentSong, StoreInfo
from mge_plugin.data.latents.store import LatentsError, Store, opened
from mge_plugin.data.latents.windows import LatentForm, cut, draw_window
from mge_plugin.data.window import Asked

SAME = ("autoencoder", "sample_rate", "audio_channels", "ratio", "channels")  # in all folders

Songs = dict[Path, LatentSong]


class LatentsDataset(SongItems):
    """Item number -> (reals (3 * channels, frames), metadata).

    What is drawn from the posterior is the number's too. A file is open only while an item is cut
    from it.
    """

    unreadable = LatentsError
    pieces = "files of latents"
    stand_in = "song"

    def __init__(
        self,
        folders: Sequence[Songs],
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


def open_latents(config: LatentsConfig, asked: Asked) -> LatentsDataset:
    """The dataset of a config for a model; latents that do not fit it raise ConfigError."""
    folders = open_folders(config.datasets)
    info = next(iter(folders[0].values())).store
    if problems := info.misfits(asked):
        raise ConfigError(*problems)
    labels = labels_of(song for songs in folders for song in songs.values())
    form = LatentForm.of(config, asked.sample_size // info.ratio, labels)
    weights = [entry.weight for entry in config.datasets]
    return LatentsDataset(folders, form, config.seed, weights, config.epoch_items)


def open_folders(entries: Sequence[LatentsEntry]) -> list[Songs]:
    """The songs of every entry; nothing found, or latents of two kinds, raise ConfigError."""
    folders = [_open(entry) for entry in entries]
    infos = {entry.id: _info(songs) for entry, songs in zip(entries, folders, strict=True)}
    first, *others = infos.items()
    for name, info in others:
        if differences := first[1].differences(info, SAME):
            what = "; ".join(differences)
            raise ConfigError(f"datasets: {first[0]!r} and {name!r} cannot be mixed: {what}")
        if _embedder(first[1]) != _embedder(info):
            raise ConfigError(
                f"datasets: {first[0]!r} and {name!r} have audio embeddings of different models"
            )
    return folders


def labels_of(songs: Iterable[LatentSong]) -> tuple[str, ...]:
    """What may be asked of some song, in order."""
    return tuple(sorted({song.stems[i].label for song in songs for i in song.sources}))


def _open(entry: LatentsEntry) -> Songs:
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


def _info(songs: Songs) -> StoreInfo:
    """What the songs of a folder have in common; two kinds in one raise ConfigError."""
    (first, song), *others = songs.items()
    for path, other in others:
        if differences := song.store.differences(other.store, SAME):
            raise ConfigError(f"{first} and {path} cannot be mixed: {'; '.join(differences)}")
    return song.store


def _embedder(info: StoreInfo) -> str | None:
    return None if info.clap is None else info.clap.fingerprint
