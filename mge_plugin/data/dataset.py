"""Triplets from multi-track corpora in SAT's form: `dataset_type: "mge_triplets"`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.data.audio import AudioError
from mge_plugin.data.corpora.cache import AUTO, cache_folder
from mge_plugin.data.corpora.config import CorpusConfig, check_weights
from mge_plugin.data.corpora.index import Corpus, index_corpora
from mge_plugin.data.order import SongOrder
from mge_plugin.data.sampler import ItemSampler
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, Triplet, Window, draw_window, make_triplet
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)

MAX_BROKEN = 20  # windows in a row that cannot be read before giving up
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class TripletsConfig:
    """A dataset config of type `mge_triplets`."""

    dataset_type: Literal["mge_triplets"]
    datasets: tuple[CorpusConfig, ...]
    seed: int = 0
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # triplets an epoch; by default one a window of every song
    drop_last: bool = True
    index_cache: str | None = AUTO  # folder that keeps the song index; null reads it every time

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ConfigError("datasets: expected one corpus or more, found none")
        if problems := check_weights(self.datasets):
            raise ConfigError(*problems)
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed: expected 0 to {MAX_SEED}, found {self.seed}")
        if self.epoch_items is not None and self.epoch_items < 1:
            raise ConfigError(f"epoch_items: expected 1 or more, found {self.epoch_items}")


class TripletDataset(Dataset):
    """Item number -> (reals (3 * channels, samples), metadata).

    An item number is `epoch * len + index` (see ItemSampler); with the seed it alone decides the
    song, the source and the offset, on any machine and with any number of workers.
    """

    def __init__(
        self, corpora: Sequence[Corpus], form: Format, seed: int, size: int | None = None
    ) -> None:
        self.songs = [song for corpus in corpora for song in corpus.songs]
        self.form = form
        self.seed = seed
        self.order = song_order(corpora, form, seed)
        self.size = size or len(self.order)
        self.broken: dict[Path | None, str] = {}  # path -> what is wrong with it

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        for attempt, song in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.seed, item, attempt])
            try:
                triplet = make_triplet(draw_window(song, self.form, rng), self.form)
            except AudioError as error:
                self._report(error)
            else:
                return self._describe(triplet)
        examples = "; ".join(list(self.broken.values())[:3])
        raise AudioError(f"{MAX_BROKEN} windows in a row cannot be read, e.g. {examples}")

    def _candidates(self, item: int) -> Iterator[Song]:
        """The song of the item, then those whose windows stand in for it if it is broken."""
        yield self.songs[self.order.song(item)]
        rng = np.random.default_rng([self.seed, item, MAX_BROKEN])
        for number in np.resize(rng.permutation(len(self.songs)), MAX_BROKEN - 1):
            yield self.songs[number]

    def _describe(self, triplet: Triplet) -> tuple[Tensor, dict[str, Any]]:
        window, form = triplet.window, self.form
        labels = {track: names for track, names in triplet.labels.items() if names}
        reals = torch.from_numpy(rearrange(triplet.audio, "k c n -> (k c) n"))
        return reals, {
            "prompt": {track.label: label_prompt(sounding) for track, sounding in labels.items()},
            "labels": {track.label: list(triplet.labels[track]) for track in Track},
            "path": str(window.song.path),
            "mixture_only": window.song.mixture_only,
            "loss_mask": [1, 1, 0] if window.song.mixture_only else [1, 1, 1],
            "source": str(window.source.path),
            "seconds_start": window.start / form.sample_rate,
            "seconds_total": window.song.seconds,
            "padding_mask": [_in_song(window, form)],
        }

    def _report(self, error: AudioError) -> None:
        """Say once a file (and process) what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            logger.warning("left out, another window stands in: %s", error)


def _in_song(window: Window, form: Format) -> Tensor:
    """Which samples of a window lie before its song's end, (samples,)."""
    left = window.song.samples(form.sample_rate) - window.start
    return torch.arange(form.samples) < left


def song_order(corpora: Sequence[Corpus], form: Format, seed: int) -> SongOrder:
    """The order of songs by their windows of the model's length, and by weights if there are any.

    A song shorter than a window has one.
    """
    windows = [
        np.array([max(1, s.samples(form.sample_rate) // form.samples) for s in corpus.songs])
        for corpus in corpora
    ]
    weights = [corpus.config.weight for corpus in corpora]
    return SongOrder(windows, None if None in weights else weights, seed)


def collate(items: list[tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
    """SAT's batch: stacked reals (batch, 3 * channels, samples) and a list of metadata."""
    reals, metadata = zip(*items, strict=True)
    return torch.stack(reals), list(metadata)


def create_triplet_dataloader(
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

    SAT 0.0.20 has options more (tokenizers, pad), of which triplets know none.
    """
    if asked := {name for name, value in newer_options.items() if value not in (None, True)}:
        raise ConfigError(f"dataset type mge_triplets does not support {sorted(asked)}")
    config = parse_section(TripletsConfig, dataset_config, "dataset config")
    form = Format(sample_rate, sample_size, audio_channels, config.silence_db)
    corpora = index_corpora(config.datasets, cache_folder(config.index_cache))
    dataset = TripletDataset(corpora, form, config.seed, config.epoch_items)
    if config.drop_last and len(dataset) < batch_size:
        raise ConfigError(
            f"dataset config: {len(dataset)} windows of {sample_size / sample_rate:.2f} s "
            f"are fewer than one batch of {batch_size}; set epoch_items or a smaller batch size"
        )
    return DataLoader(
        dataset,
        batch_size,
        sampler=ItemSampler(dataset, shuffle, config.seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=config.drop_last,
        collate_fn=collate,
    )


DATASET_TYPES = {"mge_triplets": create_triplet_dataloader}


def create_mge_dataloader(
    dataset_config: Mapping[str, Any], *args: Any, **kwargs: Any
) -> DataLoader:
    """Build the loader of one of our dataset types; an unknown type raises with the nearest one."""
    where = "dataset config.dataset_type"
    create = choose(where, dataset_config["dataset_type"], DATASET_TYPES)
    return create(dataset_config, *args, **kwargs)
