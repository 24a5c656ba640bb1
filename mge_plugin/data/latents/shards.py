"""Songs of latents in WebDataset shards, for object stores and clusters.

A sample is a song: `KEY.safetensors`, its file, and `KEY.json`, its header. Every worker of every
rank reads a stream of its own: it visits shards in rounds, each round a drawn order of all shards,
and gives as many windows of each song as fit, shuffled within a buffer.

What a stream gives is a function of the seed and of the number of items before, not of what was
read: each visit, song and window has its own random numbers, and the buffer delays each window by
a drawn number of places. So a stream can begin at any place, if the number of windows per shard is
known: from the headers in local shards, or from `index.json`, which is written with the shards.
"""

import heapq
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from safetensors import SafetensorError
from safetensors.torch import load
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import tarfile_samples

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.latents.dataset import LatentsConfig, LatentsEntry, cut_item, labels_of
from mge_plugin.data.latents.store import (
    LatentsError,
    LatentSong,
    Store,
    StoreInfo,
    safe_name,
    tensors_problem,
)
from mge_plugin.data.order import Item, ItemLoader, rank_and_ranks, worker_options
from mge_plugin.data.triplets import Format
from mge_plugin.files import remove_abandoned, write_json, written_whole

_MEGABYTE = 1_000_000
_ALLOW_PIPE = "MGE_ALLOW_PIPE"  # an environment variable; 1: shards may be commands of a shell
_INDEX = "index.json"
_BLOCK = 4096  # delays drawn at a time
_is_local = re.compile(r"(?!pipe:|\w[\w+.-]+:)").match
_is_plain_url = re.compile(r"\w[\w+.-]+:[^'\"\\\s]+").fullmatch  # safe in a shell's quotes

_Headers = list[LatentSong]


def write_shards(store: Store, megabytes: int) -> list[Path]:
    """Write every song into `shards/SPLIT-000000.tar`, ..., a new one from that size on.

    The same songs give the same bytes. Shards of an earlier time that are not needed are removed;
    `index.json` has the headers of the songs in each.
    """
    folder = store.root / "shards"
    folder.mkdir(exist_ok=True)
    remove_abandoned(folder)
    songs = store.songs()
    written: dict[Path, _Headers] = {}
    for split in sorted({song.split for song in songs.values()}):
        paths = [path for path, song in songs.items() if song.split == split]
        for number, part in enumerate(_by_size(paths, megabytes * _MEGABYTE)):
            shard = folder / f"{safe_name(split)}-{number:06}.tar"
            written[shard] = [songs[path] for path in part]
            _write_shard(shard, {path: songs[path] for path in part})
    for path in set(folder.glob("*.tar")) - set(written):
        path.unlink()
    headers = {shard.name: [song.to_json() for song in part] for shard, part in written.items()}
    write_json(folder / _INDEX, headers)
    return list(written)


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
    with (
        written_whole(shard) as partial,
        partial.open("wb") as file,
        wds.TarWriter(file, mtime=0) as tar,
    ):
        for path, song in songs.items():
            key = f"{safe_name(song.corpus)}/{path.stem}"
            header = song.to_json().encode()
            tar.write({"__key__": key, "json": header, "safetensors": path.read_bytes()})


def shard_urls(entries: Iterable[LatentsEntry]) -> list[str]:
    """All shards of a config; files that are not there and unsafe URLs raise ConfigError."""
    urls = [url for entry in entries for url in wds.shardlists.expand_urls(entry.shards)]
    if missing := [url for url in urls if _is_local(url) and not Path(url).is_file()]:
        raise ConfigError(
            f"datasets: {len(missing)} of {len(urls)} shards are not there, e.g. {missing[0]}"
        )
    commands = [url for url in urls if not _is_local(url) and not _is_safe(url)]
    if commands and os.environ.get(_ALLOW_PIPE) != "1":
        raise ConfigError(
            f"datasets: {commands[0]!r} would run in a shell; set {_ALLOW_PIPE}=1 if you trust "
            "this dataset config"
        )
    return urls


def _is_safe(url: str) -> bool:
    return not url.startswith("pipe:") and _is_plain_url(url) is not None


def shard_loader(
    config: LatentsConfig, batch_size: int, form: Format, num_workers: int
) -> ItemLoader:
    """A loader of a config's shards; their order is always drawn."""
    stream = _ShardStream(config, batch_size, form, max(1, num_workers))
    options = worker_options(num_workers) | {"drop_last": config.drop_last}
    return ItemLoader(stream, batch_size, config.epoch_items or 0, **options)


class _ShardStream(IterableDataset):
    """Items from shards without an end, for one rank; each worker has its own part of them."""

    def __init__(self, config: LatentsConfig, batch_size: int, form: Format, workers: int) -> None:
        super().__init__()
        self.config = config
        self.batch_size = batch_size
        self.form = form
        self.workers = workers
        self.urls = shard_urls(config.datasets)
        self.headers = _read_headers(config.datasets)
        known = [song for songs in (self.headers or {}).values() for song in songs]
        self.labels = labels_of(known)  # without headers: of the songs read so far
        self.store: StoreInfo | None = None  # of the song before
        self.start(0)

    def start(self, position: int) -> None:
        """Begin after `position` items of all ranks together."""
        self.rank, self.ranks = rank_and_ranks()
        self.position = position

    def __iter__(self) -> Iterator[Item]:
        """The items of this worker.

        Batches are dealt to streams in turn, so the first worker after a start at batch n continues
        stream n % workers. Without headers a stream cannot begin in its middle: it begins with
        other draws, which depend on the position.
        """
        info = get_worker_info()
        batch = self.position // (self.batch_size * self.ranks)
        stream = (batch + (info.id if info else 0)) % self.workers
        place = self.rank * self.workers + stream
        seed: tuple[int, ...]
        if self.headers is None:
            seed, done = (self.config.seed, self.position), 0
        else:
            seed, done = (self.config.seed,), len(range(stream, batch, self.workers))
        delays = _Delays((*seed, place), self.config.shuffle_buffer)
        first, given = delays.resume(done * self.batch_size)
        return _delayed(self._windows(seed, place, first, given), delays, first)

    def _windows(
        self, seed: Sequence[int], place: int, first: int, given: set[int]
    ) -> Iterator[Item | None]:
        """The windows of a stream in order from number `first` on; None for those in `given`."""
        number = 0
        streams = self.ranks * self.workers
        for visit in _from(place, streams):
            round_number, slot = divmod(visit, len(self.urls))
            url = self.urls[_order((*seed, round_number), len(self.urls))[slot]]
            if self.headers is not None:
                count = sum(map(self._count, self.headers[url]))
                if number + count <= first:
                    number += count
                    continue
            for place_in_shard, (song, tensors) in enumerate(self._songs(url)):
                for window in range(self._count(song)):
                    if number >= first:
                        draws = (*seed, visit, place_in_shard, window)
                        yield None if number in given else self._item(song, tensors, draws)
                    number += 1

    def _item(
        self, song: LatentSong, tensors: dict[str, torch.Tensor], draws: Sequence[int]
    ) -> Item:
        rng, labels = np.random.default_rng(draws), self.labels[song.corpus]
        frames = self.form.samples // song.store.ratio
        return cut_item(song, tensors.__getitem__, self.config, frames, labels, rng)

    def _count(self, song: LatentSong) -> int:
        """Windows of a song: as many as fit, one of a shorter song."""
        return max(1, song.frames // max(1, self.form.samples // song.store.ratio))

    def _songs(self, url: str) -> Iterator[tuple[LatentSong, dict[str, torch.Tensor]]]:
        for sample in tarfile_samples([{"url": url}]):
            where = f"{url}: {sample['__key__']}"
            try:
                song = LatentSong.from_json(sample["json"])
                tensors = load(sample["safetensors"])
            except (KeyError, ValueError, SafetensorError) as error:
                raise LatentsError(f"{where}: not a song of latents ({error})") from error
            self._check(where, song, tensors_problem(song, tensors))
            yield song, tensors

    def _check(self, where: str, song: LatentSong, problem: str | None) -> None:
        """Raise if a song does not fit the model or the songs before; note its labels."""
        problems = [problem] if problem else song.store.misfits(self.form)
        if self.store is not None and not problems:
            problems = self.store.differences(song.store, ("autoencoder",))
        if problems:
            raise ConfigError(*(f"{where}: {problem}" for problem in problems))
        self.store = song.store
        if self.headers is None:
            corpus, new = song.corpus, labels_of([song])[song.corpus]
            self.labels[corpus] = tuple(sorted({*self.labels.get(corpus, ()), *new}))


class _Delays:
    """A shuffle buffer as arithmetic: window i leaves a stream at the time i + delay(i).

    Delays are uniform in [0, size), from the seed and i, so that on average half a buffer waits.
    """

    def __init__(self, seed: tuple[int, ...], size: int) -> None:
        self.size = size
        self._draw = lru_cache(2)(
            lambda block: np.random.default_rng([*seed, block]).random(_BLOCK)
        )

    def time(self, number: int) -> float:
        """When a window leaves."""
        block, place = divmod(number, _BLOCK)
        return number + self.size * float(self._draw(block)[place])

    def resume(self, done: int) -> tuple[int, set[int]]:
        """After `done` windows have left: the first that waits, and later ones that have left."""
        low = max(0, done - self.size - 1)  # all before have left
        order = sorted(range(low, done + self.size + 1), key=self.time)
        given, waiting = order[: done - low], order[done - low :]
        first = min(waiting)
        return first, {number for number in given if number > first}


def _delayed(windows: Iterator[Item | None], delays: _Delays, first: int) -> Iterator[Item]:
    """Windows in the order in which they leave."""
    waiting: list[tuple[float, int, Item]] = []
    for number, item in enumerate(windows, first):
        if item is not None:
            heapq.heappush(waiting, (delays.time(number), number, item))
        while waiting and waiting[0][0] <= number:  # all later windows leave later
            yield heapq.heappop(waiting)[2]


def _from(start: int, step: int) -> Iterator[int]:
    while True:
        yield start
        start += step


@lru_cache(4)
def _order(seed: tuple[int, ...], count: int) -> list[int]:
    """The order of shards in a round."""
    return np.random.default_rng(seed).permutation(count).tolist()


def _read_headers(entries: Sequence[LatentsEntry]) -> dict[str, _Headers] | None:
    """The songs of every shard; None if there are shards elsewhere and no index of them."""
    headers: dict[str, _Headers] = {}
    for entry in entries:
        index = {} if entry.index is None else read_json(Path(entry.index).expanduser())
        for url in wds.shardlists.expand_urls(entry.shards):
            name = re.split(r"[/\s]", url.removesuffix(" -"))[-1]
            if name in index:
                headers[url] = [LatentSong.from_json(text) for text in index[name]]
            elif _is_local(url):
                headers[url] = _scan(Path(url))
            else:
                return None
    return headers


def _scan(shard: Path) -> _Headers:
    """The headers in a local shard, whose tensors are not read."""
    try:
        with tarfile.open(shard) as tar:
            members = [member for member in tar if member.name.endswith(".json")]
            files = (tar.extractfile(member) for member in members)
            return [LatentSong.from_json(file.read()) for file in files if file is not None]
    except (tarfile.TarError, ValueError, OSError) as error:
        raise LatentsError(f"not a shard of latents ({error})", shard) from error
