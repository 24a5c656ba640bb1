"""Latents encoded ahead in SAT's form: `dataset_type: "mge_latents"`."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.batches import item_loader
from mge_plugin.data.dataset import check_newer
from mge_plugin.data.latents.config import LatentsConfig, LatentsEntry
from mge_plugin.data.latents.song import Asked, LatentSong, StoreInfo
from mge_plugin.data.latents.store import LatentsError, Store, opened
from mge_plugin.data.latents.windows import LatentForm, cut, draw_window
from mge_plugin.data.order import SongOrder

logger = logging.getLogger(__name__)

MAX_BROKEN = 20  # songs in a row that cannot be read before giving up
SAME = ("autoencoder", "sample_rate", "audio_channels", "ratio", "channels")  # in all folders

Songs = dict[Path, LatentSong]


class LatentsDataset(Dataset):
    """Item number -> (reals (3 * channels, frames), metadata).

    With the seed the item number alone decides the song, the source, the start and what is drawn
    from the posterior, as in TripletDataset. A file is open only while an item is cut from it.
    """

    def __init__(
        self,
        folders: Sequence[Songs],
        form: LatentForm,
        seed: int,
        weights: Sequence[float] | None = None,
        size: int | None = None,
    ) -> None:
        self.songs = [entry for songs in folders for entry in songs.items()]
        self.form = form
        self.seed = seed
        windows = [
            np.array([max(1, song.frames // form.frames) for song in songs.values()])
            for songs in folders
        ]
        self.order = SongOrder(windows, weights, seed)
        self.size = size or len(self.order)
        self.broken: dict[Path, str] = {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        for attempt, (path, song) in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.seed, item, attempt])
            try:
                with opened(path) as file:
                    window = draw_window(song, file.get_slice, self.form, rng)
                    return cut(window, file.get_slice, self.form, rng)
            except LatentsError as error:
                self._report(error)
        examples = "; ".join(list(self.broken.values())[:3])
        raise ValueError(f"{MAX_BROKEN} files of latents in a row cannot be read, e.g. {examples}")

    def _candidates(self, item: int) -> Iterator[tuple[Path, LatentSong]]:
        """The song of the item, then those that stand in for it if it is broken."""
        yield self.songs[self.order.song(item)]
        rng = np.random.default_rng([self.seed, item, MAX_BROKEN])
        for number in np.resize(rng.permutation(len(self.songs)), MAX_BROKEN - 1):
            yield self.songs[number]

    def _report(self, error: LatentsError) -> None:
        """Say once a file (and process) what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            logger.warning("left out, another song stands in: %s", error)


def create_latents_dataloader(
    dataset_config: Mapping[str, Any],
    batch_size: int,
    sample_size: int,
    sample_rate: int,
    audio_channels: int = 2,
    num_workers: int = 4,
    shuffle: bool = True,
    **newer_options: Any,
) -> DataLoader:
    """Build the loader; the arguments are those of SAT's `create_dataloader_from_config`.

    `sample_size` is the window in samples of the audio that was encoded. SAT 0.0.20 has options
    more (tokenizers, pad), of which latents know none.
    """
    check_newer(newer_options, "mge_latents")
    config = parse_section(LatentsConfig, dataset_config, "dataset config")
    if config.from_shards:
        from mge_plugin.data.latents.shards import shard_loader  # webdataset is an extra of SAT's

        asked = Asked(sample_size, sample_rate, audio_channels)
        return shard_loader(config, batch_size, asked, num_workers)
    folders = open_folders(config.datasets)
    info = next(iter(folders[0].values())).store
    if problems := info.misfits(Asked(sample_size, sample_rate, audio_channels)):
        raise ConfigError(*problems)
    form = LatentForm(
        sample_size // info.ratio,
        config.silence_db,
        config.posterior == "draw",
        config.source,
        config.templates,
        labels_of(song for songs in folders for song in songs.values()),
    )
    weights = [entry.weight for entry in config.datasets]
    dataset = LatentsDataset(
        folders, form, config.seed, None if None in weights else weights, config.epoch_items
    )
    seconds = sample_size / sample_rate
    return item_loader(
        dataset, batch_size, seconds, config.seed, shuffle, num_workers, config.drop_last
    )


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
