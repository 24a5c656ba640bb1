"""Songs of latents in WebDataset shards, for object stores and clusters.

A sample is a song: `KEY.safetensors`, its file, and `KEY.json`, its header. Shards are read in a
drawn order, each song gives as many windows as it is long, and a buffer shuffles these. With the
seed, the number of ranks and of workers the order is always the same; unlike with folders an
interrupted epoch begins anew, and another number of ranks or workers gives other items.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from safetensors import SafetensorError
from safetensors.torch import load
from torch.utils.data import DataLoader, IterableDataset

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.dataset import (
    LatentForm,
    LatentsConfig,
    LatentsEntry,
    cut,
    draw_window,
)
from mge_plugin.data.latents.store import (
    LatentSong,
    Store,
    StoreInfo,
    safe_name,
    sweep,
    tensors_problem,
)
from mge_plugin.data.order import Item, collate
from mge_plugin.data.triplets import Asked

MEGABYTE = 1_000_000
_OWNER = "shard"  # of temporary files


def write_shards(store: Store, megabytes: int) -> list[Path]:
    """Write every song into `shards/SPLIT-000000.tar`, ..., a new one from that size on.

    The same songs give the same bytes; shards of an earlier time that are too many are removed.
    """
    folder = store.root / "shards"
    folder.mkdir(exist_ok=True)
    sweep(folder, _OWNER)
    songs = store.songs()
    written = []
    for split in sorted({song.split for song in songs.values()}):
        paths = [path for path, song in songs.items() if song.split == split]
        for number, part in enumerate(_by_size(paths, megabytes * MEGABYTE)):
            written.append(folder / f"{safe_name(split)}-{number:06}.tar")
            _write_shard(written[-1], {path: songs[path] for path in part})
    for path in set(folder.glob("*.tar")) - set(written):
        path.unlink()
    return written


def _by_size(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    """Runs of files, each of `size` bytes or a little more; the last may have less."""
    part, filled = [], 0
    for path in paths:
        part.append(path)
        filled += path.stat().st_size
        if filled >= size:
            yield part
            part, filled = [], 0
    if part:
        yield part


def _write_shard(shard: Path, songs: dict[Path, LatentSong]) -> None:
    partial = shard.with_name(f".{shard.name}.{_OWNER}.tmp")
    with partial.open("wb") as file, wds.TarWriter(file, mtime=0) as tar:
        for path, song in songs.items():
            key = f"{safe_name(song.corpus)}/{path.stem}"
            header = song.to_json().encode()
            tar.write({"__key__": key, "json": header, "safetensors": path.read_bytes()})
    os.replace(partial, shard)


class _ShardStream(IterableDataset):
    """Items from shards without an end; an epoch is `batches` batches of every rank together."""

    def __init__(self, config: LatentsConfig, batch_size: int, asked: Asked) -> None:
        super().__init__()
        self.config = config
        self.batch_size = batch_size
        self.asked = asked
        self.epoch = -1
        self.store: StoreInfo | None = None  # that of the song before
        self.labels: set[str] = set()  # seen so far, to be asked where they are absent
        urls = shard_urls(config.datasets)
        self.shards = wds.ResampledShards(urls, seed=config.seed, deterministic=True)

    @property
    def batches(self) -> int:
        """Of one rank in an epoch."""
        _, ranks, _, _ = wds.utils.pytorch_worker_info()
        return self.config.epoch_items // (self.batch_size * ranks)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Item]:
        self.epoch += 1
        rank, _, worker, workers = wds.utils.pytorch_worker_info()
        items = len(range(worker, self.batches, workers)) * self.batch_size
        rng = np.random.default_rng([self.config.seed, self.epoch, rank, worker])
        buffer = self.config.shuffle_buffer
        pipeline = wds.DataPipeline(
            self.shards,
            wds.tarfile_to_samples(),
            lambda samples: self._windows(samples, rng),
            wds.detshuffle(buffer, buffer, seed=int(rng.integers(2**31))),
        )
        yield from itertools.islice(pipeline, items)

    def _windows(
        self, samples: Iterable[dict[str, Any]], rng: np.random.Generator
    ) -> Iterator[Item]:
        """Each song's windows: as many as fit, drawn by chance."""
        for sample in samples:
            song, tensors = self._read(sample)
            self.labels.update(song.stems[i].label for i in song.sources)
            frames = self.asked.sample_size // song.store.ratio
            form = LatentForm.of(self.config, frames, tuple(sorted(self.labels)))
            for _ in range(max(1, song.frames // form.frames)):
                window = draw_window(song, tensors.__getitem__, form, rng)
                yield cut(window, tensors.__getitem__, form, rng)

    def _read(self, sample: dict[str, Any]) -> tuple[LatentSong, dict[str, torch.Tensor]]:
        where = f"{sample.get('__url__')}: {sample['__key__']}"
        try:
            song = LatentSong.from_json(sample["json"])
            tensors = load(sample["safetensors"])
        except (KeyError, ValueError, SafetensorError) as error:
            raise ValueError(f"{where}: not a song of latents ({error})") from error
        self._check(where, song, tensors_problem(song, tensors))
        return song, tensors

    def _check(self, where: str, song: LatentSong, problem: str | None) -> None:
        """Raise if a song does not fit the model or the songs before."""
        problems = [problem] if problem else song.store.misfits(self.asked)
        if self.store is not None and not problems:
            problems = self.store.differences(song.store, ("autoencoder",))
        if problems:
            raise ConfigError(*(f"{where}: {problem}" for problem in problems))
        self.store = song.store


def shard_urls(entries: Iterable[LatentsEntry]) -> list[str]:
    """All shards of a config; local files that are not there raise ConfigError."""
    urls = [url for entry in entries for url in wds.shardlists.expand_urls(entry.shards)]
    is_local = re.compile(r"(?!pipe:|\w[\w+.-]+:)").match
    if missing := [url for url in urls if is_local(url) and not Path(url).is_file()]:
        raise ConfigError(
            f"datasets: {len(missing)} of {len(urls)} shards are not there, e.g. {missing[0]}"
        )
    return urls


def shard_loader(
    config: LatentsConfig, batch_size: int, asked: Asked, num_workers: int
) -> DataLoader:
    """A loader of a config's shards; their order is always a drawn one."""
    if config.epoch_items < batch_size:
        raise ConfigError(
            f"dataset config: epoch_items {config.epoch_items} are fewer than one batch of "
            f"{batch_size}"
        )
    return DataLoader(
        _ShardStream(config, batch_size, asked),
        batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
    )
