"""Our dataset types, and the loader of each as SAT's scripts create it.

mge_triplets   triplets from multi-track corpora
mge_tracks     single waveforms for training an autoencoder: of each triplet one track
mge_latents    pre-encoded triplets, see `mge_plugin.data.latents`
"""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.data.audio import AudioError, rms_db
from mge_plugin.data.cache import StemCache
from mge_plugin.data.corpora.index import AUTO, Corpus, cache_folder, index_corpora
from mge_plugin.data.corpora.ranks import keep_for_ranks, songs_of_first_rank
from mge_plugin.data.corpora.reader import (
    REPLACED_IN_DATASETS,
    CorpusConfig,
    shares,
    weight_problems,
)
from mge_plugin.data.latents.dataset import LatentsConfig, open_latents
from mge_plugin.data.order import SongItems, SongOrder, item_loader
from mge_plugin.data.songs import IndexReport
from mge_plugin.data.triplets import (
    AugmentConfig,
    Format,
    SourceConfig,
    Triplet,
    Window,
    augment,
    describe,
    draw_window,
    item_problems,
    last_start,
    make_triplet,
    stem_sounds,
)
from mge_plugin.prompts import TEMPLATE, template_problems
from mge_plugin.tracks import Track

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TripletsConfig:
    """A dataset config of type `mge_triplets`."""

    dataset_type: Literal["mge_triplets", "mge_tracks"]
    datasets: tuple[CorpusConfig, ...]  # the corpora
    seed: int = 0  # decides every choice
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # triplets per epoch; by default one per window of every song
    drop_last: bool = True  # round an epoch down to whole batches, not up
    source: SourceConfig = field(default_factory=SourceConfig)  # which stems are the source
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # changes to the stems
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn per item; paper: this one
    cache_dir: str | None = None  # folder that keeps every stem decoded
    cache_workers: int | None = None  # threads that decode; by default one per core
    index_cache: str | None = AUTO  # folder that keeps the song index; null: no index is kept

    REPLACED: ClassVar[dict[str, str]] = REPLACED_IN_DATASETS

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if not self.datasets:
            yield "datasets: expected one corpus or more, found none"
        yield from weight_problems(self.datasets)
        yield from template_problems(self.templates)
        yield from item_problems(self.seed, self.epoch_items)
        if self.cache_workers is not None and self.cache_workers < 1:
            yield f"cache_workers: expected 1 or more, found {self.cache_workers}"


class TripletDataset(SongItems):
    """Item number -> (reals (3 * channels, samples), metadata)."""

    unreadable = AudioError

    def __init__(self, corpora: Sequence[Corpus], form: Format, config: TripletsConfig) -> None:
        songs = [song for corpus in corpora for song in corpus.songs]
        order = _song_order(corpora, form, config.seed)
        super().__init__(songs, order, config.seed, config.epoch_items)
        self.labels = [  # for each song, the labels of sources in its corpus
            labels for corpus in corpora for labels in repeat(_labels(corpus), len(corpus.songs))
        ]
        self.form = form
        self.config = config
        self.lowered: set[str] = set()  # songs that exceeded full scale

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        triplet, rng = self.drawn(item)
        reals = torch.from_numpy(rearrange(triplet.audio, "k c n -> (k c) n"))
        return reals, self.describe(triplet, rng)

    def draw(self, number: int, rng: np.random.Generator) -> Triplet:
        """Choose, change, read and sum stems of the song with this number."""
        song, form = self.songs[number], self.form

        def sounds(stem: int, start: int) -> bool:
            return stem_sounds(song.stems[stem], start, form)

        last, labels = last_start(song, form), self.labels[number]
        window = draw_window(song, last, sounds, rng, self.config.source, labels)
        voices = augment(window, self.config.augment, self.songs, form, rng)
        triplet = make_triplet(window, form, voices)
        self._report_level(triplet)
        return triplet

    def describe(self, triplet: Triplet, rng: np.random.Generator) -> dict[str, Any]:
        """An item's metadata."""
        window, form = triplet.window, self.form
        source = str(window.song.stems[window.sources[0]].path) if window.sources else None
        template = self.config.templates[rng.integers(len(self.config.templates))]
        seconds = window.start / form.sample_rate
        metadata = describe(window, triplet.labels, source, seconds, template)
        return metadata | {"gain": triplet.gain, "padding_mask": [_in_song(window, form)]}

    def _report_level(self, triplet: Triplet) -> None:
        """Log, once per song and process, that its stems together exceed full scale."""
        path = str(triplet.window.song.path)
        if triplet.gain < 1.0 and path not in self.lowered:
            self.lowered.add(path)
            level = -20 * np.log10(triplet.gain)
            _logger.info("%s: %.1f dB over full scale, all its tracks are lowered", path, level)


def _labels(corpus: Corpus) -> tuple[str, ...]:
    """The labels of sources in a corpus; what other corpora name may be in its songs unlabelled."""
    return tuple(sorted({stem.label for song in corpus.songs for stem in song.sources}))


def _in_song(window: Window, form: Format) -> Tensor:
    """Which samples of a window lie before its song's end, (samples,)."""
    left = window.song.samples(form.sample_rate) - window.start
    return torch.arange(form.samples) < left


def _song_order(corpora: Sequence[Corpus], form: Format, seed: int) -> SongOrder:
    """The order of songs by their windows of the model's length, and by weights if there are any.

    A song shorter than a window has one.
    """
    windows = [
        np.array([max(1, s.samples(form.sample_rate) // form.samples) for s in corpus.songs])
        for corpus in corpora
    ]
    return SongOrder(windows, shares([corpus.config for corpus in corpora]), seed)


def _open_triplets(config: TripletsConfig, form: Format) -> TripletDataset:
    """The dataset of a config for a model; labels in `groups` that no stem has are logged."""
    form = replace(form, silence_db=config.silence_db)
    corpora = _open_corpora(config, form)
    for problem in group_problems(config.source, corpora):
        _logger.warning("%s", problem)
    return TripletDataset(corpora, form, config)


def group_problems(config: SourceConfig, corpora: Sequence[Corpus]) -> Iterator[str]:
    """Labels in groups that no stem has, perhaps misspelt: no song has such a group."""
    labels = set().union(*map(_labels, corpora))
    for name, group in config.groups.items():
        for label in group:
            try:
                choose(f"source.groups.{name}", label, dict.fromkeys(labels))
            except ConfigError as error:
                yield str(error)


def _open_corpora(config: TripletsConfig, form: Format) -> list[Corpus]:
    """The songs of every corpus, read from the decoded cache if there is one.

    On a machine with several ranks the first one reads the files, the others its result.
    """
    folder = cache_folder(config.index_cache)
    key = json.dumps([dataclasses.asdict(config), dataclasses.asdict(form)])
    name = f"ranks-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if folder is not None and (songs := songs_of_first_rank(folder / name)) is not None:
        pairs = zip(config.datasets, songs, strict=True)
        return [Corpus(corpus, of_corpus, IndexReport()) for corpus, of_corpus in pairs]
    corpora = index_corpora(config.datasets, folder)
    if config.cache_dir is not None:
        cache = StemCache(Path(config.cache_dir).expanduser(), form.sample_rate, form.channels)
        corpora = [
            replace(corpus, songs=tuple(cache.build(corpus.songs, config.cache_workers)))
            for corpus in corpora
        ]
    if folder is not None:
        keep_for_ranks(folder / name, [corpus.songs for corpus in corpora])
    return corpora


@dataclass(frozen=True)
class _TrackWeights:
    """`tracks`: how often each is used, relative to the others."""

    mixture: float = 1.0  # share of items that are a mixture
    submixture: float = 1.0  # share of submixtures
    source: float = 1.0  # share of sources

    def __post_init__(self) -> None:
        if min(self.values()) < 0 or not sum(self.values()):
            raise ConfigError(f"expected weights of 0 or more, not all 0, found {self.values()}")

    def values(self) -> tuple[float, float, float]:
        """In the order of the tracks."""
        return (self.mixture, self.submixture, self.source)


@dataclass(frozen=True)
class _TracksConfig(TripletsConfig):
    """A dataset config of type `mge_tracks`: the keys of triplets, and which track."""

    tracks: _TrackWeights = field(default_factory=_TrackWeights)  # which are used


class _TrackDataset(Dataset):
    """Item number -> (reals (channels, samples), metadata), as SAT's autoencoder training takes it.

    Silent tracks are not used: spectral losses of silence teach nothing, and SAT 0.0.19's explode.
    If no track that has a weight sounds, the item is the mixture.
    """

    def __init__(self, triplets: TripletDataset, weights: _TrackWeights) -> None:
        self.triplets = triplets
        self.weights = np.array(weights.values())

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        triplet, rng = self.triplets.drawn(item)
        track = self._choose(triplet, rng)
        metadata = self.triplets.describe(triplet, rng)
        kept = ("path", "gain", "seconds_start", "seconds_total", "padding_mask")
        described = {name: metadata[name] for name in kept} | {"track": track.label}
        return torch.from_numpy(np.ascontiguousarray(triplet.audio[track])), described

    def _choose(self, triplet: Triplet, rng: np.random.Generator) -> Track:
        known = (Track.MIXTURE,) if triplet.window.song.mixture_only else tuple(Track)
        silence = self.triplets.form.silence_db
        sounding = [t for t in known if rms_db(triplet.audio[t]) > silence]
        weights = self.weights[sounding] if sounding else np.zeros(0)
        if not weights.sum():
            return Track.MIXTURE
        return Track(int(rng.choice(sounding, p=weights / weights.sum())))


def _open_tracks(config: _TracksConfig, form: Format) -> _TrackDataset:
    """The dataset of a config for an autoencoder."""
    return _TrackDataset(_open_triplets(config, form), config.tracks)


_PRE_ENCODER = "PreEncodedLatentsInferenceWrapper"  # a class that only SAT's pre_encode.py has

DATASET_TYPES: dict[str, tuple[type, Callable[[Any, Format], Any]]] = {  # config, what opens it
    "mge_triplets": (TripletsConfig, _open_triplets),
    "mge_tracks": (_TracksConfig, _open_tracks),
    "mge_latents": (LatentsConfig, open_latents),
}


def create_mge_dataloader(
    dataset_config: Mapping[str, Any],
    batch_size: int,
    sample_size: int,
    sample_rate: int,
    audio_channels: int = 2,
    num_workers: int = 4,
    shuffle: bool = True,
    **newer_options: Any,
) -> DataLoader:
    """Build the loader of one of our dataset types; an unknown type raises with the nearest one.

    The arguments are those of SAT's `create_dataloader_from_config`; `sample_size` is the window in
    samples, for latents those of the audio that was encoded. The options that SAT 0.0.20 adds
    (tokenizers, pad) are not supported.
    """
    name = dataset_config.get("dataset_type")
    section, open_dataset = choose("dataset config.dataset_type", name, DATASET_TYPES)
    if unknown := {key for key, value in newer_options.items() if value not in (None, True)}:
        raise ConfigError(f"dataset type {name} does not support {sorted(unknown)}")
    config = parse_section(section, dataset_config, "dataset config")
    _refuse_pre_encoding(str(name))
    form = Format(sample_rate, sample_size, audio_channels)
    if isinstance(config, LatentsConfig) and config.from_shards:
        from mge_plugin.data.latents.shards import shard_loader  # webdataset is an extra of SAT's

        return shard_loader(config, batch_size, form, num_workers)
    dataset = open_dataset(config, form)
    return item_loader(dataset, batch_size, config.seed, shuffle, num_workers, config.drop_last)


def _refuse_pre_encoding(name: str) -> None:
    """SAT's pre_encode.py writes windows of one waveform each, which our training cannot read.

    It creates a loader just as train.py does; only the module `__main__` tells the two apart.
    """
    if hasattr(sys.modules.get("__main__"), _PRE_ENCODER):
        raise ConfigError(
            f"dataset type {name}: pre_encode.py cannot encode it, use `mge encode` with a dataset "
            "config of type mge_triplets (docs/encoding.md)"
        )
