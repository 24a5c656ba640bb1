"""All songs of a dataset config: dealt to ranks, skipped where they are done, reported.

Every song is one rank's by its number in the sorted list, so ranks need not talk to one another. A
song's file is there whole or not at all: a run that was killed goes on where it stopped.

Audio embeddings of every sum of a song on a grid of seconds.

One song to latents: its stems are read once, piece by piece, and every sum is encoded once.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.data.audio import AudioError
from mge_plugin.data.corpora.index import Corpus, cache_folder, index_corpora
from mge_plugin.data.dataset import TripletsConfig
from mge_plugin.data.latents.store import (
    SONG,
    GridInfo,
    LatentsError,
    LatentSong,
    LatentStem,
    Store,
    StoreInfo,
    Sum,
    content_of,
    read_header,
    relative_path,
    sums_of,
    sweep,
)
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, stem_window
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.inference.pipeline import pick
from mge_plugin.models.autoencoder import (
    Chunk,
    autoencoder_section,
    cover,
    encode_waveforms,
    fingerprint,
    measure_context,
    open_autoencoder,
    silent_frame,
)
from mge_plugin.models.conditioning import TrackConditioner, create_conditioner

logger = logging.getLogger(__name__)

BATCH = 32  # windows embedded at a time
_UNHEARD = ("cache_dir",)  # options of a conditioner that do not change an embedding


@dataclass(frozen=True)
class _Grid:
    """An embedding every `every` seconds, of the `samples` that follow."""

    conditioner: TrackConditioner
    embedder_fingerprint: str
    every: float
    samples: int  # of a window, at `sample_rate`
    sample_rate: int  # Hz

    @property
    def info(self) -> GridInfo:
        """What a store says of it."""
        seconds, width = self.samples / self.sample_rate, self.conditioner.output_dim
        return GridInfo(self.embedder_fingerprint, seconds, self.every, width)

    def starts(self, samples: int) -> list[int]:
        """Where the windows of a song of that length start; one that is too short has one."""
        last = max(0, samples - self.samples)
        count = int(last / self.sample_rate / self.every) + 1
        return [round(i * self.every * self.sample_rate) for i in range(count)]

    def embed(self, waveforms: Tensor) -> Tensor:
        """(b, channel, sample) to (b, width) float32 on the CPU."""
        parts = [self._embed(batch) for batch in waveforms.split(BATCH)]
        return torch.cat(parts).float().cpu()

    def _embed(self, waveforms: Tensor) -> Tensor:
        examples = [(waveform, self.sample_rate) for waveform in waveforms]
        return self.conditioner.embedder.embed_audio(examples)


def create_grid(config: Mapping[str, Any], every: float) -> _Grid | None:
    """From `model.conditioning` of a model config; None if it has no conditioner that hears.

    A window is as long as what the model is trained on. Two that hear raise ConfigError.
    """
    section = config["model"].get("conditioning")
    if section is None:
        return None
    conditioners = create_conditioner(section).conditioners
    hearing = {key: c for key, c in conditioners.items() if getattr(c, "hears", False)}
    if len(hearing) > 1:
        raise ConfigError(
            f"model.conditioning: latents keep the embeddings of one conditioner that hears, found "
            f"{sorted(hearing)}"
        )
    if not hearing:
        return None
    ((key, conditioner),) = hearing.items()
    entry = next(entry for entry in section["configs"] if entry["id"] == key)
    rate = config["sample_rate"]
    return _Grid(conditioner, embedder_fingerprint(entry), every, config["sample_size"], rate)


def embedder_fingerprint(entry: Mapping[str, Any]) -> str:
    """The same for the same embeddings: of a conditioner's options, files by what they hold."""
    options = {k: v for k, v in entry.get("config", {}).items() if k not in _UNHEARD}
    told = [entry["type"], {name: _told(value) for name, value in sorted(options.items())}]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _told(value: Any) -> Any:
    path = Path(value) if isinstance(value, str) else None
    if path is not None and path.is_file():
        return checkpoint_fingerprint(path)
    if path is not None and path.is_dir():
        return list(_folder_hashes(path))
    return value


def _folder_hashes(folder: Path) -> Iterator[list[str]]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield [path.name, checkpoint_fingerprint(path)]


DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class _EncodingError(ValueError):
    """A song that cannot be encoded, and why."""


@dataclass(frozen=True)
class _Encoder:
    """All that is needed to encode a song, apart from the song."""

    pretransform: nn.Module
    info: StoreInfo
    silence: Tensor  # (part, c), see chunks.silent_frame
    context: int  # frames around a piece
    chunk: int  # frames of a piece, 0 is the whole song
    batch_size: int  # waveforms encoded at a time
    device: torch.device
    pool: ThreadPoolExecutor  # reads pieces
    threads: int  # of the pool
    grid: _Grid | None = None
    partial_sums: int = 0  # orders in which stems are added one by one, see `sums_of`

    def encode(self, waveforms: np.ndarray) -> Tensor:
        """(sum, channel, sample) to (sum, frame, part, c) float32 on the CPU."""
        batches = torch.from_numpy(waveforms).split(self.batch_size)
        return torch.cat([self._encode(batch.to(self.device)).float().cpu() for batch in batches])

    def _encode(self, waveforms: Tensor) -> Tensor:
        half = self.info.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return encode_waveforms(self.pretransform, waveforms, self.info.posterior == "full")

    def stored(self, values: Tensor) -> Tensor:
        """In the type that is kept; what is no number in it raises EncodingError."""
        kept = values.to(DTYPES[self.info.dtype])
        if not torch.isfinite(kept).all():
            raise _EncodingError(f"its latents are NaN or too large for {self.info.dtype}")
        return kept.contiguous()


@dataclass(frozen=True)
class _Piece:
    """A chunk and the sound of every stem (stem, channel, sample) from its first frame on."""

    chunk: Chunk
    stems: np.ndarray
    window_starts: list[int]  # where embeddings are made, in samples after the first frame


def _encode_song(
    song: Song, corpus: str, encoder: _Encoder
) -> tuple[LatentSong, dict[str, Tensor]]:
    """A song's header and tensors as they are stored, see `mge_plugin.data.latents.store`."""
    info, sums = encoder.info, sums_of(song, encoder.partial_sums)
    latents, power, embeddings = [], [], []
    for piece in _ahead(_pieces(song, encoder), encoder):
        chunk, heard = piece.chunk, (piece.chunk.last - piece.chunk.first) * info.ratio
        together = _add_stems(piece.stems, sums)
        latents.append(encoder.encode(together[..., :heard])[:, chunk.kept])
        power.append(_mean_square(piece.stems[..., :heard], info.ratio)[:, chunk.kept])
        embeddings += [_embed(encoder, together, start) for start in piece.window_starts]
    header = describe(song, corpus, sums, info)
    tensors = {
        "latents": encoder.stored(torch.cat(latents, dim=1)),
        "power": torch.from_numpy(np.concatenate(power, axis=1)),
        "silence": encoder.stored(encoder.silence),
    }
    if encoder.grid is not None:
        tensors["clap"] = encoder.stored(torch.stack(embeddings, dim=1))
        tensors["clap_silence"] = encoder.stored(_embed(encoder, np.zeros_like(together[:1]), 0)[0])
    return header, tensors


def describe(song: Song, corpus: str, sums: tuple[Sum, ...], info: StoreInfo) -> LatentSong:
    """A song's header."""
    stems = tuple(
        LatentStem(stem.label, relative_path(song, stem.path), stem.queryable)
        for stem in song.stems
    )
    return LatentSong(
        song.id,
        corpus,
        song.split,
        str(song.path),
        song.seconds,
        frames_of(song, info),
        stems,
        sums,
        content_of(song),
        info,
        song.mixture_only,
    )


def frames_of(song: Song, info: StoreInfo) -> int:
    """Latent frames of a song; after its end the last one is silent."""
    return max(1, -(-song.samples(info.sample_rate) // info.ratio))


def _add_stems(stems: np.ndarray, sums: Sequence[Sum]) -> np.ndarray:
    """(stem, channel, sample) to (sum, channel, sample); stem by stem, so that silence is zeros."""
    return np.stack([stems[list(numbers)].sum(axis=0) for numbers in sums])


def _mean_square(stems: np.ndarray, ratio: int) -> np.ndarray:
    """(stem, channel, sample) to (stem, frame) float32, over a frame's samples and channels."""
    count, channels, _ = stems.shape
    framed = np.square(stems, dtype=np.float64).reshape(count, channels, -1, ratio)
    return framed.mean(axis=(1, 3)).astype(np.float32)


def _pieces(song: Song, encoder: _Encoder) -> Iterator[Callable[[], _Piece]]:
    """Each piece of a song, to be read by calling it."""
    info, grid = encoder.info, encoder.grid
    frames = frames_of(song, info)
    starts = [] if grid is None else grid.starts(song.samples(info.sample_rate))
    for chunk in cover(frames, encoder.chunk or frames, encoder.context):
        begin, end = chunk.begin * info.ratio, chunk.end * info.ratio
        yield partial(_read, song, encoder, chunk, [s for s in starts if begin <= s < end])


def _read(song: Song, encoder: _Encoder, chunk: Chunk, starts: list[int]) -> _Piece:
    """A piece with its stems, as far as encoder and embedder hear."""
    info = encoder.info
    first, last = chunk.first * info.ratio, chunk.last * info.ratio
    if starts:
        last = max(last, starts[-1] + encoder.grid.samples)
    form = Format(info.sample_rate, last - first, info.audio_channels)
    stems = np.stack([stem_window(stem, first, form) for stem in song.stems])
    return _Piece(chunk, stems, [start - first for start in starts])


def _ahead(readers: Iterator[Callable[[], _Piece]], encoder: _Encoder) -> Iterator[_Piece]:
    """Read the next pieces, as many as there are threads, while one is encoded."""
    coming = deque(encoder.pool.submit(reader) for reader in islice(readers, encoder.threads))
    while coming:
        piece = coming.popleft().result()
        coming.extend(encoder.pool.submit(reader) for reader in islice(readers, 1))
        yield piece


def _embed(encoder: _Encoder, together: np.ndarray, start: int) -> Tensor:
    """Embeddings (sum, width) of the window at `start`, silent after the end."""
    samples = encoder.grid.samples
    windows = together[..., start : start + samples]
    missing = samples - windows.shape[-1]
    windows = np.pad(windows, ((0, 0), (0, 0), (0, missing)))
    return encoder.grid.embed(torch.from_numpy(windows).to(encoder.device))


_WHOLE_CONTEXT = 32  # frames of silence around a silent frame where the reach is not measured


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
    partial_sums: int = 0  # orders in which stems are added one by one: sums of some stems
    device: str = "auto"
    threads: int = 2  # that read songs

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected more than 0, found {getattr(self, name)}"
            for name in ("batch_size", "clap_every", "threads")
            if getattr(self, name) <= 0
        ]
        if self.partial_sums < 0:
            problems.append(f"partial_sums: expected 0 or more, found {self.partial_sums}")
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
    corpora: Sequence[Corpus], encoder: _Encoder, store: Store, ranks: Ranks
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
) -> _Encoder:
    """Everything that songs are encoded with."""
    pretransform = open_autoencoder(config, ckpt)
    told = fingerprint(autoencoder_section(config), pretransform.model)
    pretransform = pretransform.to(device)
    grid = create_grid(config, settings.clap_every) if settings.clap else None
    context = measure_context(pretransform) if settings.chunk else _WHOLE_CONTEXT
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
    return _Encoder(
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
        settings.partial_sums,
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


def _encode_all(songs: Sequence[tuple[str, Song]], store: Store, encoder: _Encoder) -> Report:
    report = Report()
    hours = sum(song.seconds for _, song in songs) / 3600
    layout = "{l_bar}{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=hours, desc="encoding", unit="h", bar_format=layout) as bar:
        for corpus, song in songs:
            _encode_one(corpus, song, store, encoder, report)
            bar.update(song.seconds / 3600)
            bar.set_postfix(songs=f"{report.songs}/{len(songs)}")
    return report


def _encode_one(corpus: str, song: Song, store: Store, encoder: _Encoder, report: Report) -> None:
    path = store.song_path(corpus, song.split, song.id)
    sweep(path.parent, SONG, path.name)
    there = _is_there(path, song, encoder)
    if there:
        report.present += 1
        return
    try:
        header, tensors = _encode_song(song, corpus, encoder)
    except (AudioError, _EncodingError) as error:
        report.left_out[f"{corpus}/{song.id}"] = str(error)
        path.unlink(missing_ok=True)  # what was there is of other files
        return
    store.write(path, header, tensors)
    report.encoded += 1
    report.renewed += there is False


def _is_there(path: Path, song: Song, encoder: _Encoder) -> bool | None:
    """Whether a song's file is there and of the same stems: False if of others, None if not."""
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except LatentsError as error:
        logger.warning("encoded anew: %s", error)
        return False
    found = (header.store, header.content, header.sums)
    return found == (encoder.info, content_of(song), sums_of(song, encoder.partial_sums))
