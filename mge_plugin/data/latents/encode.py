"""Songs to latents: dealt to ranks, encoded piece by piece, skipped if present, reported.

A song belongs to one rank, by its number in the sorted list, so ranks need no communication. Its
file is written whole or not at all: a run that was killed resumes where it stopped. A song's stems
are read once, and every sum of them is encoded once, with audio embeddings on a grid of seconds.
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
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.data.audio import AudioError
from mge_plugin.data.corpora.index import Corpus, cache_folder, index_corpora
from mge_plugin.data.dataset import TripletsConfig
from mge_plugin.data.latents.store import (
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
)
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import AugmentConfig, Format, stem_window
from mge_plugin.devices import pick
from mge_plugin.files import checkpoint_fingerprint
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
from mge_plugin.models.checkpoints import (
    CheckpointError,
    StateDict,
    load_into,
    read_checkpoint,
    weights_fingerprint,
)
from mge_plugin.models.conditioning import TrackConditioner, create_conditioner

_logger = logging.getLogger(__name__)

_BATCH = 32  # windows embedded at a time
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_SAME_EMBEDDINGS = ("cache_dir", "ckpt_path")  # options; a file's weights are hashed themselves
_CONDITIONER = "conditioner."  # how names of its weights begin in a model's checkpoint
_WHOLE_CONTEXT = 32  # frames of silence around a silent frame where the context is not measured


@dataclass(frozen=True)
class _Grid:
    """An embedding every `every` seconds, of the `samples` that follow."""

    conditioner: TrackConditioner
    fingerprint: str  # of the embedder
    every: float
    samples: int  # of a window, at `sample_rate`
    sample_rate: int  # Hz

    @property
    def info(self) -> GridInfo:
        """Its description in a store."""
        seconds, width = self.samples / self.sample_rate, self.conditioner.output_dim
        return GridInfo(self.fingerprint, seconds, self.every, width)

    def starts(self, samples: int) -> list[int]:
        """The windows' starts in a song of that length; a song that is shorter has one."""
        last = max(0, samples - self.samples)
        count = int(last / self.sample_rate / self.every) + 1
        return [round(i * self.every * self.sample_rate) for i in range(count)]

    def embed(self, waveforms: Tensor) -> Tensor:
        """(b, channel, sample) to (b, width) float32 on the CPU."""
        parts = [self._embed(batch) for batch in waveforms.split(_BATCH)]
        return torch.cat(parts).float().cpu()

    def _embed(self, waveforms: Tensor) -> Tensor:
        examples = [(waveform, self.sample_rate) for waveform in waveforms]
        embedder: Any = self.conditioner.embedder
        return embedder.embed_audio(examples)


def _create_grid(
    config: Mapping[str, Any], ckpt: Path, every: float, device: torch.device | str = "cpu"
) -> _Grid | None:
    """From `model.conditioning` of a model config; None if no conditioner embeds audio.

    An embedder's weights may be in the model's checkpoint; one without weights from anywhere, and
    two conditioners that embed audio, raise. A window has the length of the model's training items.
    """
    section = config["model"].get("conditioning")
    if section is None:
        return None
    conditioners = create_conditioner(section).conditioners
    embedders = {k: c for k, c in conditioners.items() if getattr(c, "supports_audio", False)}
    if len(embedders) > 1:
        raise ConfigError(
            "model.conditioning: latents keep the embeddings of one conditioner that embeds audio, "
            f"found {sorted(embedders)}"
        )
    if not embedders:
        return None
    ((key, conditioner),) = embedders.items()
    entry = next(entry for entry in section["configs"] if entry["id"] == key)
    _load_embedder(conditioner, key, entry, ckpt)
    rate, fingerprint = config["sample_rate"], _embedder_fingerprint(entry, conditioner)
    return _Grid(conditioner.to(device), fingerprint, every, config["sample_size"], rate)


def _load_embedder(conditioner: nn.Module, key: str, entry: Mapping[str, Any], ckpt: Path) -> None:
    """Load an embedder's weights from the model's checkpoint, where it has any."""
    prefix = f"{_CONDITIONER}conditioners.{key}."

    def own(weights: StateDict) -> StateDict:
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    if not conditioner.state_dict():
        return
    if own(read_checkpoint(ckpt)):
        load_into(conditioner, ckpt, own)
    elif entry.get("config", {}).get("ckpt_path") is None:
        raise CheckpointError(
            f"{ckpt}: has no weights of conditioner {key!r} ({entry['type']}), whose embeddings "
            "would be random: use the whole model's checkpoint, set its ckpt_path, or --no-clap"
        )


def _embedder_fingerprint(entry: Mapping[str, Any], conditioner: nn.Module) -> str:
    """The same for the same embeddings: a hash of type, options, files' contents and weights."""
    has_weights = bool(conditioner.state_dict())
    ignored = _SAME_EMBEDDINGS if has_weights else _SAME_EMBEDDINGS[:1]
    options = {k: v for k, v in sorted(entry.get("config", {}).items()) if k not in ignored}
    if has_weights:
        return weights_fingerprint({"type": entry["type"], "config": options}, conditioner)
    described = [entry["type"], {name: _content(value) for name, value in options.items()}]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _content(value: Any) -> Any:
    """A value of an option; a path of a file or folder by what is in it."""
    path = Path(value) if isinstance(value, str) else None
    if path is not None and path.is_file():
        return checkpoint_fingerprint(path)
    if path is not None and path.is_dir():
        files = (file for file in sorted(path.iterdir()) if file.is_file())
        return [[file.name, checkpoint_fingerprint(file)] for file in files]
    return value


class _EncodingError(ValueError):
    """A song that cannot be encoded, and why."""


@dataclass(frozen=True)
class _Encoder:
    """All that is needed to encode a song, apart from the song."""

    pretransform: nn.Module
    info: StoreInfo
    silence: Tensor  # (part, c), the latents of silence
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
        """In the type that is stored; values that do not fit it raise an error."""
        kept = values.to(_DTYPES[self.info.dtype])
        if not torch.isfinite(kept).all():
            raise _EncodingError(f"its latents are NaN or too large for {self.info.dtype}")
        return kept.contiguous()


class _Piece(NamedTuple):
    """A chunk and the samples of every stem (stem, channel, sample) from its first frame on."""

    chunk: Chunk
    stems: np.ndarray
    window_starts: list[int]  # where embeddings are made, in samples after the first frame


def _encode_song(
    song: Song, corpus: str, encoder: _Encoder
) -> tuple[LatentSong, dict[str, Tensor]]:
    """A song's header and tensors as they are stored, see `mge_plugin.data.latents.store`."""
    info, grid, device = encoder.info, encoder.grid, encoder.device
    sums = sums_of(song, encoder.partial_sums)
    latents, power, embeddings = [], [], []
    for piece in _ahead(_pieces(song, encoder), encoder):
        chunk, length = piece.chunk, (piece.chunk.last - piece.chunk.first) * info.ratio
        together = _add_stems(piece.stems, sums)
        latents.append(encoder.encode(together[..., :length])[:, chunk.kept])
        power.append(_mean_square(piece.stems[..., :length], info.ratio)[:, chunk.kept])
        if grid is not None:
            embeddings += [_embed(grid, together, s, device) for s in piece.window_starts]
    header = _describe(song, corpus, sums, info)
    tensors = {
        "latents": encoder.stored(torch.cat(latents, dim=1)),
        "power": torch.from_numpy(np.concatenate(power, axis=1)),
        "silence": encoder.stored(encoder.silence),
    }
    if grid is not None:
        tensors["clap"] = encoder.stored(torch.stack(embeddings, dim=1))
        silence = np.zeros_like(together[:1])
        tensors["clap_silence"] = encoder.stored(_embed(grid, silence, 0, device)[0])
    return header, tensors


def _describe(song: Song, corpus: str, sums: tuple[Sum, ...], info: StoreInfo) -> LatentSong:
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
        _frames_of(song, info),
        stems,
        sums,
        content_of(song),
        info,
        song.mixture_only,
    )


def _frames_of(song: Song, info: StoreInfo) -> int:
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
    """Functions that read the pieces of a song."""
    info, grid = encoder.info, encoder.grid
    frames = _frames_of(song, info)
    starts = [] if grid is None else grid.starts(song.samples(info.sample_rate))
    for chunk in cover(frames, encoder.chunk or frames, encoder.context):
        begin, end = chunk.begin * info.ratio, chunk.end * info.ratio
        inside = [start for start in starts if begin <= start < end]
        last = inside[-1] + grid.samples if grid is not None and inside else 0
        yield partial(_read, song, info, chunk, inside, last)


def _read(song: Song, info: StoreInfo, chunk: Chunk, starts: list[int], embedded: int) -> _Piece:
    """A piece with its stems, as far as encoder and embedder need them."""
    first, last = chunk.first * info.ratio, max(chunk.last * info.ratio, embedded)
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


def _embed(grid: _Grid, together: np.ndarray, start: int, device: torch.device) -> Tensor:
    """Embeddings (sum, width) of the window at `start`, silent after the end."""
    windows = together[..., start : start + grid.samples]
    missing = grid.samples - windows.shape[-1]
    windows = np.pad(windows, ((0, 0), (0, 0), (0, missing)))
    return grid.embed(torch.from_numpy(windows).to(device))


@dataclass(frozen=True)
class Settings:
    """How to encode."""

    posterior: Literal["full", "mean"] = "full"  # full: with the deviation
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # on disk
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 on a GPU
    batch_size: int = 4  # waveforms at a time
    chunk: float = 30.0  # seconds of a song at a time, 0 is all of it
    clap: bool = True  # audio embeddings too, if a conditioner embeds audio
    clap_every: float = 2.0  # seconds from one embedding to the next
    partial_sums: int = 0  # orders in which stems are added one by one: sums of some stems
    device: str = "auto"
    threads: int = 2  # that read songs ahead

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

    def deal(self, songs: Sequence[Any]) -> Sequence[Any]:
        """This rank's share."""
        return songs[self.rank :: self.world]

    def device(self, requested: str) -> torch.device:
        """The requested device; of several GPUs each rank has its own."""
        name = pick(requested)
        return torch.device(f"cuda:{self.local_rank}" if name == "cuda" else name)


@dataclass
class Report:
    """The results of this rank's songs."""

    encoded: int = 0
    present: int = 0  # were present before
    renewed: int = 0  # of those encoded: replaced files of other stems or labels
    left_out: dict[str, str] = field(default_factory=dict)  # song -> reason

    @property
    def songs(self) -> int:
        """The number of songs."""
        return self.encoded + self.present + len(self.left_out)


def encode_corpora(
    corpora: Sequence[Corpus], encoder: _Encoder, store: Store, ranks: Ranks
) -> Report:
    """Encode this rank's share of the corpora's songs into `store`."""
    songs = _songs(corpora)
    store.claim(encoder.info)
    try:
        report = _encode_all(ranks.deal(songs), store, encoder)
    finally:
        encoder.pool.shutdown(cancel_futures=True)
    store.songs()
    return report


def read_corpora(path: Path) -> list[Corpus]:
    """The corpora of a dataset config of type `mge_triplets`."""
    content = read_json(path)
    try:
        config = parse_section(TripletsConfig, content, "dataset config")
    except ConfigError as error:
        raise ConfigError(*(f"{path}: {problem}" for problem in error.problems)) from error
    if config.augment != AugmentConfig():
        _logger.warning("%s: augment is ignored, latents cannot be augmented", path)
    return index_corpora(config.datasets, cache_folder(config.index_cache))


def create_encoder(
    config: Mapping[str, Any], ckpt: Path, settings: Settings, device: torch.device
) -> _Encoder:
    """Everything that songs are encoded with."""
    pretransform = open_autoencoder(config, ckpt)
    identity = fingerprint(autoencoder_section(config), pretransform.model)
    pretransform = pretransform.to(device)
    grid = _create_grid(config, ckpt, settings.clap_every, device) if settings.clap else None
    context = measure_context(pretransform) if settings.chunk else _WHOLE_CONTEXT
    silence = silent_frame(pretransform, context, settings.posterior == "full")
    ratio, rate = pretransform.downsampling_ratio, config["sample_rate"]
    info = StoreInfo(
        autoencoder=identity,
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
                raise ConfigError(f"datasets: {key[0]!r} has song {song.id!r} twice")
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
    present = _is_present(path, song, encoder)
    if present:
        report.present += 1
        return
    try:
        header, tensors = _encode_song(song, corpus, encoder)
    except (AudioError, _EncodingError) as error:
        report.left_out[f"{corpus}/{song.id}"] = str(error)
        path.unlink(missing_ok=True)  # it is of other files
        return
    store.write(path, header, tensors)
    report.encoded += 1
    report.renewed += present is False


def _is_present(path: Path, song: Song, encoder: _Encoder) -> bool | None:
    """Whether a song's file is of the same stems; None if there is no file."""
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except LatentsError as error:
        _logger.warning("encoded again: %s", error)
        return False
    found = (header.store, header.content, header.sums)
    return found == (encoder.info, content_of(song), sums_of(song, encoder.partial_sums))
