"""All songs of a dataset config: dealt to ranks, skipped where they are done, reported.

Every song is one rank's by its number in the sorted list, so ranks need not talk to one another. A
song's file is there whole or not at all: a run that was killed goes on where it stopped.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.data.audio import AudioError
from mge_plugin.data.corpora.cache import cache_folder
from mge_plugin.data.corpora.index import Corpus, index_corpora
from mge_plugin.data.dataset import TripletsConfig
from mge_plugin.data.latents.song import StoreInfo, content_of
from mge_plugin.data.latents.store import SONG, LatentsError, Store, read_header, sweep
from mge_plugin.data.songs import Song
from mge_plugin.encoding.autoencoder import autoencoder_section, fingerprint, open_autoencoder
from mge_plugin.encoding.chunks import measure_context, silent_frame
from mge_plugin.encoding.clap import create_grid
from mge_plugin.encoding.song import Encoder, EncodingError, encode_song
from mge_plugin.inference.pipeline import pick

logger = logging.getLogger(__name__)

WHOLE_CONTEXT = 32  # frames of silence around a silent frame where the reach is not measured


@dataclass(frozen=True)
class Settings:
    """How to encode."""

    posterior: Literal["full", "mean"] = "full"  # full keeps the deviation: training may draw
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # on disk
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 on a GPU
    batch_size: int = 4  # waveforms at a time
    chunk: float = 30.0  # seconds of a song at a time, 0 is all of it
    clap: bool = True  # audio embeddings too, if the model config has a conditioner that hears
    clap_every: float = 2.0  # seconds from one embedding to the next
    device: str = "auto"
    threads: int = 2  # that read songs

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected more than 0, found {getattr(self, name)}"
            for name in ("batch_size", "clap_every", "threads")
            if getattr(self, name) <= 0
        ]
        if self.chunk < 0:
            problems.append(f"chunk: expected 0 or more seconds, found {self.chunk}")
        if problems:
            raise ConfigError(*problems)


@dataclass(frozen=True)
class Ranks:
    """This process among those of `torchrun`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Ranks":
        """From the variables that torchrun sets."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(environment.get(name, default)) for name, default in names.items()))

    @property
    def owner(self) -> str:
        """Of temporary files."""
        return f"rank{self.rank}"

    def deal(self, songs: Sequence[Any]) -> Sequence[Any]:
        """This rank's share."""
        return songs[self.rank :: self.world]

    def device(self, asked: str) -> torch.device:
        """The asked one; of several GPUs each rank has its own."""
        name = pick(asked)
        return torch.device(f"cuda:{self.local_rank}" if name == "cuda" else name)


@dataclass
class Report:
    """What became of this rank's songs."""

    encoded: int = 0
    present: int = 0  # were there already
    renewed: int = 0  # were there, but made from other files or labels
    left_out: dict[str, str] = field(default_factory=dict)  # song -> reason

    @property
    def songs(self) -> int:
        """All of them."""
        return self.encoded + self.present + len(self.left_out)


def encode_corpora(
    corpora: Sequence[Corpus], encoder: Encoder, store: Store, ranks: Ranks
) -> Report:
    """Encode this rank's share of the corpora's songs into `store`."""
    songs = _songs(corpora)
    store.claim(encoder.info, ranks.owner)
    try:
        report = _encode_all(ranks.deal(songs), store, encoder)
    finally:
        encoder.pool.shutdown(cancel_futures=True)
    store.songs(ranks.owner)
    return report


def read_corpora(path: Path) -> list[Corpus]:
    """The corpora of a dataset config of type `mge_triplets`."""
    content = read_json(path)
    try:
        config = parse_section(TripletsConfig, content, "dataset config")
    except ConfigError as error:
        raise ConfigError(*(f"{path}: {problem}" for problem in error.problems)) from error
    if config.augment.is_on:
        logger.warning("%s: augment is left out, latents cannot be augmented", path)
    return index_corpora(config.datasets, cache_folder(config.index_cache))


def create_encoder(
    config: Mapping[str, Any], ckpt: Path, settings: Settings, device: torch.device
) -> Encoder:
    """Everything that songs are encoded with."""
    pretransform = open_autoencoder(config, ckpt)
    told = fingerprint(autoencoder_section(config), pretransform.model)
    pretransform = pretransform.to(device)
    grid = create_grid(config, settings.clap_every) if settings.clap else None
    context = measure_context(pretransform) if settings.chunk else WHOLE_CONTEXT
    silence = silent_frame(pretransform, context, settings.posterior == "full")
    ratio, rate = pretransform.downsampling_ratio, config["sample_rate"]
    info = StoreInfo(
        autoencoder=told,
        sample_rate=rate,
        audio_channels=pretransform.io_channels,
        ratio=ratio,
        channels=pretransform.encoded_channels,
        posterior="full" if len(silence) > 1 else "mean",
        dtype=settings.dtype,
        precision=_precision(settings, device),
        clap=None if grid is None else grid.info,
    )
    chunk = max(1, round(settings.chunk * rate / ratio)) if settings.chunk else 0
    pool = ThreadPoolExecutor(settings.threads)
    return Encoder(
        pretransform,
        info,
        silence.float().cpu(),
        context,
        chunk,
        settings.batch_size,
        device,
        pool,
        settings.threads,
        grid,
    )


def _precision(settings: Settings, device: torch.device) -> str:
    if settings.precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return settings.precision


def _songs(corpora: Sequence[Corpus]) -> list[tuple[str, Song]]:
    """(corpus, song), the same order for every rank; two under one name raise ConfigError."""
    named = {}
    for corpus in corpora:
        for song in corpus.songs:
            key = (corpus.config.id, song.split, song.id)
            if key in named:
                raise ConfigError(
                    f"datasets: {key[0]!r} has song {song.id!r} twice: its ids differ?"
                )
            named[key] = (corpus.config.id, song)
    return [named[key] for key in sorted(named)]


def _encode_all(songs: Sequence[tuple[str, Song]], store: Store, encoder: Encoder) -> Report:
    report = Report()
    hours = sum(song.seconds for _, song in songs) / 3600
    layout = "{l_bar}{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=hours, desc="encoding", unit="h", bar_format=layout) as bar:
        for corpus, song in songs:
            _encode_one(corpus, song, store, encoder, report)
            bar.update(song.seconds / 3600)
            bar.set_postfix(songs=f"{report.songs}/{len(songs)}")
    return report


def _encode_one(corpus: str, song: Song, store: Store, encoder: Encoder, report: Report) -> None:
    path = store.song_path(corpus, song.split, song.id)
    sweep(path.parent, SONG, path.name)
    there = _is_there(path, song, encoder.info)
    if there:
        report.present += 1
        return
    try:
        header, tensors = encode_song(song, corpus, encoder)
    except (AudioError, EncodingError) as error:
        report.left_out[f"{corpus}/{song.id}"] = str(error)
        path.unlink(missing_ok=True)  # what was there is of other files
        return
    store.write(path, header, tensors)
    report.encoded += 1
    report.renewed += there is False


def _is_there(path: Path, song: Song, info: StoreInfo) -> bool | None:
    """Whether a song's file is there and of the same stems: False if of others, None if not."""
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except LatentsError as error:
        logger.warning("encoded anew: %s", error)
        return False
    return header.store == info and header.content == content_of(song)
