"""One song to latents: its stems are read once, piece by piece, and every sum is encoded once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from mge_plugin.data.latents.song import (
    LatentSong,
    LatentStem,
    StoreInfo,
    Sum,
    content_of,
    relative_path,
    sums_of,
)
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, stem_window
from mge_plugin.encoding.chunks import Chunk, cover, encode_waveforms
from mge_plugin.encoding.clap import Grid

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class EncodingError(ValueError):
    """A song that cannot be encoded, and why."""


@dataclass(frozen=True)
class Encoder:
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
    grid: Grid | None = None

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
            raise EncodingError(f"its latents are NaN or too large for {self.info.dtype}")
        return kept.contiguous()


@dataclass(frozen=True)
class Piece:
    """A chunk and the sound of every stem (stem, channel, sample) from its first frame on."""

    chunk: Chunk
    stems: np.ndarray
    window_starts: list[int]  # where embeddings are made, in samples after the first frame


def encode_song(song: Song, corpus: str, encoder: Encoder) -> tuple[LatentSong, dict[str, Tensor]]:
    """A song's header and tensors as they are stored, see `mge_plugin.data.latents.song`."""
    info, sums = encoder.info, sums_of(song)
    latents, power, embeddings = [], [], []
    for piece in _ahead(_pieces(song, encoder), encoder):
        chunk, heard = piece.chunk, (piece.chunk.last - piece.chunk.first) * info.ratio
        together = add_stems(piece.stems, sums)
        latents.append(encoder.encode(together[..., :heard])[:, chunk.kept])
        power.append(mean_square(piece.stems[..., :heard], info.ratio)[:, chunk.kept])
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


def add_stems(stems: np.ndarray, sums: Sequence[Sum]) -> np.ndarray:
    """(stem, channel, sample) to (sum, channel, sample); stem by stem, so that silence is zeros."""
    return np.stack([stems[list(numbers)].sum(axis=0) for numbers in sums])


def mean_square(stems: np.ndarray, ratio: int) -> np.ndarray:
    """(stem, channel, sample) to (stem, frame) float32, over a frame's samples and channels."""
    count, channels, _ = stems.shape
    framed = np.square(stems, dtype=np.float64).reshape(count, channels, -1, ratio)
    return framed.mean(axis=(1, 3)).astype(np.float32)


def _pieces(song: Song, encoder: Encoder) -> Iterator[Callable[[], Piece]]:
    """Each piece of a song, to be read by calling it."""
    info, grid = encoder.info, encoder.grid
    frames = frames_of(song, info)
    starts = [] if grid is None else grid.starts(song.samples(info.sample_rate))
    for chunk in cover(frames, encoder.chunk or frames, encoder.context):
        begin, end = chunk.begin * info.ratio, chunk.end * info.ratio
        yield partial(_read, song, encoder, chunk, [s for s in starts if begin <= s < end])


def _read(song: Song, encoder: Encoder, chunk: Chunk, starts: list[int]) -> Piece:
    """A piece with its stems, as far as encoder and embedder hear."""
    info = encoder.info
    first, last = chunk.first * info.ratio, chunk.last * info.ratio
    if starts:
        last = max(last, starts[-1] + encoder.grid.samples)
    form = Format(info.sample_rate, last - first, info.audio_channels)
    stems = np.stack([stem_window(stem, first, form) for stem in song.stems])
    return Piece(chunk, stems, [start - first for start in starts])


def _ahead(readers: Iterator[Callable[[], Piece]], encoder: Encoder) -> Iterator[Piece]:
    """Read the next pieces, as many as there are threads, while one is encoded."""
    coming = deque(encoder.pool.submit(reader) for reader in islice(readers, encoder.threads))
    while coming:
        piece = coming.popleft().result()
        coming.extend(encoder.pool.submit(reader) for reader in islice(readers, 1))
        yield piece


def _embed(encoder: Encoder, together: np.ndarray, start: int) -> Tensor:
    """Embeddings (sum, width) of the window at `start`, silent after the end."""
    samples = encoder.grid.samples
    windows = together[..., start : start + samples]
    missing = samples - windows.shape[-1]
    windows = np.pad(windows, ((0, 0), (0, 0), (0, missing)))
    return encoder.grid.embed(torch.from_numpy(windows).to(encoder.device))
