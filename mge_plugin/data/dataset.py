"""Triplets from multi-track corpora in SAT's form: `dataset_type: "mge_triplets"`."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.data.audio import AudioError
from mge_plugin.data.augment import augment
from mge_plugin.data.batches import item_loader
from mge_plugin.data.cache import StemCache
from mge_plugin.data.choice import draw_window
from mge_plugin.data.corpora.cache import AUTO, cache_folder
from mge_plugin.data.corpora.config import CorpusConfig, check_weights
from mge_plugin.data.corpora.index import Corpus, index_corpora
from mge_plugin.data.options import AugmentConfig, SourceConfig
from mge_plugin.data.order import SongOrder
from mge_plugin.data.triplets import Format, Triplet, Window, make_triplet, voices
from mge_plugin.prompts import TEMPLATE, label_prompt, template_problems
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)

MAX_BROKEN = 20  # windows in a row that cannot be read before giving up
MAX_SEED = 2**32 - 1


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
        if not 0 <= self.seed <= MAX_SEED:
            yield f"seed: expected 0 to {MAX_SEED}, found {self.seed}"
        for name in ("epoch_items", "cache_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name}: expected 1 or more, found {value}"


class TripletDataset(Dataset):
    """Item number -> (reals (3 * channels, samples), metadata).

    An item number is `epoch * len + index` (see ItemSampler); with the seed it alone decides the
    song, the source and the offset, on any machine and with any number of workers.
    """

    def __init__(self, corpora: Sequence[Corpus], form: Format, config: TripletsConfig) -> None:
        self.songs = [song for corpus in corpora for song in corpus.songs]
        self.labels = [  # of each song, what may be asked in its corpus
            labels for corpus in corpora for labels in repeat(_labels(corpus), len(corpus.songs))
        ]
        self.form = form
        self.config = config
        self.order = song_order(corpora, form, config.seed)
        self.size = config.epoch_items or len(self.order)
        self.broken: dict[Path | None, str] = {}  # path -> what is wrong with it
        self.lowered: set[str] = set()  # songs that went over full scale

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        triplet, rng = self.triplet(item)
        reals = torch.from_numpy(rearrange(triplet.audio, "k c n -> (k c) n"))
        return reals, self.describe(triplet, rng)

    def triplet(self, item: int) -> tuple[Triplet, np.random.Generator]:
        """An item's triplet, and the generator that goes on deciding about it."""
        for attempt, number in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.config.seed, item, attempt])
            try:
                triplet = self._draw(number, rng)
            except AudioError as error:
                self._report(error)
            else:
                self._report_level(triplet)
                return triplet, rng
        examples = "; ".join(list(self.broken.values())[:3])
        raise AudioError(f"{MAX_BROKEN} windows in a row cannot be read, e.g. {examples}")

    def _draw(self, number: int, rng: np.random.Generator) -> Triplet:
        """Choose, change, read, sum; of the song with this number."""
        song, labels = self.songs[number], self.labels[number]
        window = draw_window(song, self.form, rng, self.config.source, labels)
        heard = voices(window)
        if self.config.augment.is_on:
            heard = augment(window, self.config.augment, self.songs, self.form, rng)
        return make_triplet(window, self.form, heard)

    def _candidates(self, item: int) -> Iterator[int]:
        """The song of the item, then those whose windows stand in for it if it is broken."""
        yield self.order.song(item)
        rng = np.random.default_rng([self.config.seed, item, MAX_BROKEN])
        yield from np.resize(rng.permutation(len(self.songs)), MAX_BROKEN - 1)

    def describe(self, triplet: Triplet, rng: np.random.Generator) -> dict[str, Any]:
        """An item's metadata."""
        window, form = triplet.window, self.form
        song, sources = window.song, window.sources
        return {
            "prompt": self._prompts(triplet, rng),
            "labels": {track.label: list(triplet.labels[track]) for track in Track},
            "path": str(song.path),
            "mixture_only": song.mixture_only,
            "loss_mask": [1, 1, 0] if song.mixture_only else [1, 1, 1],
            "source": str(sources[0].path) if sources else None,
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
        return {track.label: label_prompt(n, template) for track, n in names.items() if n}

    def _report_level(self, triplet: Triplet) -> None:
        """Say once a song (and process) that its stems together go over full scale."""
        path = str(triplet.window.song.path)
        if triplet.gain < 1.0 and path not in self.lowered:
            self.lowered.add(path)
            level = -20 * np.log10(triplet.gain)
            logger.info("%s: %.1f dB over full scale, all its tracks are lowered", path, level)

    def _report(self, error: AudioError) -> None:
        """Say once a file (and process) what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            logger.warning("left out, another window stands in: %s", error)


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
    return SongOrder(windows, None if None in weights else weights, seed)


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
    check_newer(newer_options, "mge_triplets")
    config = parse_section(TripletsConfig, dataset_config, "dataset config")
    form = Format(sample_rate, sample_size, audio_channels, config.silence_db)
    dataset = TripletDataset(open_corpora(config, form), form, config)
    for problem in unknown_in_groups(config.source, set().union(*dataset.labels)):
        logger.warning("%s", problem)
    seconds = sample_size / sample_rate
    return item_loader(
        dataset, batch_size, seconds, config.seed, shuffle, num_workers, config.drop_last
    )


def unknown_in_groups(config: SourceConfig, labels: Collection[str]) -> Iterator[str]:
    """What groups name that no stem is labelled: misspelt perhaps, no song has such a group."""
    for name, group in config.groups.items():
        for label in group:
            try:
                choose(f"source.groups.{name}", label, dict.fromkeys(labels))
            except ConfigError as error:
                yield str(error)


def check_newer(options: Mapping[str, Any], dataset_type: str) -> None:
    """Raise ConfigError if an option of SAT 0.0.20's loader is asked that our types do not have."""
    if asked := {name for name, value in options.items() if value not in (None, True)}:
        raise ConfigError(f"dataset type {dataset_type} does not support {sorted(asked)}")


def open_corpora(config: TripletsConfig, form: Format) -> list[Corpus]:
    """The songs of every corpus, read from the decoded cache if there is to be one."""
    corpora = index_corpora(config.datasets, cache_folder(config.index_cache))
    if config.cache_dir is None:
        return corpora
    cache = StemCache(Path(config.cache_dir).expanduser(), form.sample_rate, form.channels)
    songs = [cache.build(corpus.songs, config.cache_workers) for corpus in corpora]
    return [replace(c, songs=tuple(s)) for c, s in zip(corpora, songs, strict=True)]
