"""Triplets from multi-track corpora in SAT's form: `dataset_type: "mge_triplets"`."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.audio import AudioError
from mge_plugin.data.augment import augment
from mge_plugin.data.batches import SongItems, label_prompts, loss_mask, order_of
from mge_plugin.data.cache import StemCache
from mge_plugin.data.choice import draw_window
from mge_plugin.data.corpora.cache import AUTO, cache_folder
from mge_plugin.data.corpora.config import CorpusConfig, check_weights
from mge_plugin.data.corpora.index import Corpus, index_corpora
from mge_plugin.data.options import AugmentConfig, SourceConfig, item_problems
from mge_plugin.data.order import SongOrder
from mge_plugin.data.triplets import Format, Triplet, Window, make_triplet, voices
from mge_plugin.data.window import Asked
from mge_plugin.prompts import TEMPLATE, template_problems
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TripletsConfig:
    """A dataset config of type `mge_triplets`."""

    dataset_type: Literal["mge_triplets", "mge_tracks"]
    datasets: tuple[CorpusConfig, ...]  # the corpora
    seed: int = 0  # decides every choice
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # triplets an epoch; by default one a window of every song
    drop_last: bool = True  # leave out a last batch that is not full
    source: SourceConfig = field(default_factory=SourceConfig)  # what is asked
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # changes to the stems
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn an item; paper: this one
    cache_dir: str | None = None  # folder that keeps every stem decoded
    cache_workers: int | None = None  # threads that decode; by default one a core
    index_cache: str | None = AUTO  # folder that keeps the song index; null reads it every time

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if not self.datasets:
            yield "datasets: expected one corpus or more, found none"
        yield from check_weights(self.datasets)
        yield from template_problems(self.templates)
        yield from item_problems(self.seed, self.epoch_items)
        if self.cache_workers is not None and self.cache_workers < 1:
            yield f"cache_workers: expected 1 or more, found {self.cache_workers}"


class TripletDataset(SongItems):
    """Item number -> (reals (3 * channels, samples), metadata): the source and the offset too."""

    unreadable = AudioError
    pieces = "windows"
    stand_in = "window"

    def __init__(self, corpora: Sequence[Corpus], form: Format, config: TripletsConfig) -> None:
        songs = [song for corpus in corpora for song in corpus.songs]
        order = song_order(corpora, form, config.seed)
        super().__init__(songs, order, config.seed, config.epoch_items)
        self.labels = [  # of each song, what may be asked in its corpus
            labels for corpus in corpora for labels in repeat(_labels(corpus), len(corpus.songs))
        ]
        self.form = form
        self.config = config
        self.lowered: set[str] = set()  # songs that went over full scale

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        triplet, rng = self.drawn(item)
        reals = torch.from_numpy(rearrange(triplet.audio, "k c n -> (k c) n"))
        return reals, self.describe(triplet, rng)

    def draw(self, number: int, rng: np.random.Generator) -> Triplet:
        """Choose, change, read, sum; of the song with this number."""
        song, labels = self.songs[number], self.labels[number]
        window = draw_window(song, self.form, rng, self.config.source, labels)
        heard = voices(window)
        if self.config.augment.is_on:
            heard = augment(window, self.config.augment, self.songs, self.form, rng)
        triplet = make_triplet(window, self.form, heard)
        self._report_level(triplet)
        return triplet

    def describe(self, triplet: Triplet, rng: np.random.Generator) -> dict[str, Any]:
        """An item's metadata."""
        window, form = triplet.window, self.form
        song, sources = window.song, window.sources
        return {
            "prompt": self._prompts(triplet, rng),
            "labels": {track.label: list(triplet.labels[track]) for track in Track},
            "path": str(song.path),
            "mixture_only": song.mixture_only,
            "loss_mask": loss_mask(song.mixture_only),
            "source": str(sources[0].path) if sources else None,
            "absent": not sources,
            "gain": triplet.gain,
            "seconds_start": window.start / form.sample_rate,
            "seconds_total": song.seconds,
            "padding_mask": [_in_song(window, form)],
        }

    def _prompts(self, triplet: Triplet, rng: np.random.Generator) -> dict[str, str]:
        """Each track's prompt; the source's names its group, or what is absent if it is."""
        window = triplet.window
        template = self.config.templates[rng.integers(len(self.config.templates))]
        names = dict(triplet.labels)
        if window.asked is not None and (names[Track.SOURCE] or not window.sources):
            names[Track.SOURCE] = (window.asked,)
        return label_prompts(names, template)

    def _report_level(self, triplet: Triplet) -> None:
        """Say once a song (and process) that its stems together go over full scale."""
        path = str(triplet.window.song.path)
        if triplet.gain < 1.0 and path not in self.lowered:
            self.lowered.add(path)
            level = -20 * np.log10(triplet.gain)
            logger.info("%s: %.1f dB over full scale, all its tracks are lowered", path, level)


def _labels(corpus: Corpus) -> tuple[str, ...]:
    """What may be asked in a corpus, in order; of other corpora's labels nothing is known in it."""
    return tuple(sorted({stem.label for song in corpus.songs for stem in song.sources}))


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
    return order_of(windows, weights, seed)


def open_triplets(config: TripletsConfig, asked: Asked) -> TripletDataset:
    """The dataset of a config for a model; what its groups name and no stem is called is told."""
    form = Format(asked.sample_rate, asked.sample_size, asked.audio_channels, config.silence_db)
    dataset = TripletDataset(open_corpora(config, form), form, config)
    for problem in unknown_in_groups(config.source, set().union(*dataset.labels)):
        logger.warning("%s", problem)
    return dataset


def unknown_in_groups(config: SourceConfig, labels: Collection[str]) -> Iterator[str]:
    """What groups name that no stem is labelled: misspelt perhaps, no song has such a group."""
    for name, group in config.groups.items():
        for label in group:
            try:
                choose(f"source.groups.{name}", label, dict.fromkeys(labels))
            except ConfigError as error:
                yield str(error)


def open_corpora(config: TripletsConfig, form: Format) -> list[Corpus]:
    """The songs of every corpus, read from the decoded cache if there is to be one."""
    corpora = index_corpora(config.datasets, cache_folder(config.index_cache))
    if config.cache_dir is None:
        return corpora
    cache = StemCache(Path(config.cache_dir).expanduser(), form.sample_rate, form.channels)
    songs = [cache.build(corpus.songs, config.cache_workers) for corpus in corpora]
    return [replace(c, songs=tuple(s)) for c, s in zip(corpora, songs, strict=True)]
