"""Triplets a second at the paper's window (10.24 s, 16 kHz), one core: whole stems, seeking, cache.

    python benchmarks/data.py [SONGS] [SECONDS]

All are items of a training set, made whole (drawn, read, summed, described), from the same
MiniSlakh songs (10 stems, FLAC at 44.1 kHz) in one process. Then the memory of a loader's worker,
with these songs and with as many as Slakh2100 has (Linux only).
"""

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from mge_plugin.data.audio import read_audio, resample
from mge_plugin.data.cache import StemCache
from mge_plugin.data.corpora.index import Corpus, read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.dataset import TripletDataset, TripletsConfig
from mge_plugin.data.songs import IndexReport, Song
from mge_plugin.data.triplets import Format
from minislakh import write_corpus

FORMAT = Format(sample_rate=16000, samples=163840, channels=1)
STEMS = 10
ITEMS = 12  # made by decoding whole stems; the faster ways make more of them
MANY_SONGS = 2100
STATUS = Path("/proc/self/smaps_rollup")


class WorkersMemory(Dataset):
    """Makes an item and gives the memory that the worker then has for itself, in MB."""

    def __init__(self, dataset: TripletDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> float:
        self.dataset[item]
        sizes = dict(line.split()[:2] for line in STATUS.read_text().splitlines()[1:])
        return (int(sizes["Private_Clean:"]) + int(sizes["Private_Dirty:"])) / 1e3


def training_set(songs: Sequence[Song]) -> TripletDataset:
    """The songs as a dataset of triplets, drawn as in the paper."""
    config = CorpusConfig("corpus", "")
    corpus = Corpus(config, tuple(songs), IndexReport())
    return TripletDataset([corpus], FORMAT, TripletsConfig("mge_triplets", (config,)))


def by_decoding_whole_stems(dataset: TripletDataset, item: int) -> None:
    """What a reader without seeking has to do for the same triplet."""
    for stem in dataset.songs[dataset.order.song(item)].stems:
        audio, rate = read_audio(stem.path)
        resample(audio, rate, FORMAT.sample_rate)


def by_reading_windows(dataset: TripletDataset, item: int) -> None:
    """The plugin's way, from whatever the stems are read from."""
    dataset[item]


def rate(read: Callable[[TripletDataset, int], None], songs: Sequence[Song], items: int) -> float:
    """Items a second, after a first one."""
    dataset = training_set(songs)
    step = max(1, len(dataset) // ITEMS)  # from one song to the next
    read(dataset, 0)
    start = time.perf_counter()
    for number in range(items):
        read(dataset, number * step)
    return items / (time.perf_counter() - start)


def memory(songs: Sequence[Song], count: int, items: int = 300) -> float:
    """What a worker has for itself after `items`, with `count` songs, in MB."""
    many = [copy.deepcopy(songs[i % len(songs)]) for i in range(count)]
    order = torch.randperm(len(dataset := training_set(many)))[:items].tolist()
    loader = DataLoader(WorkersMemory(dataset), None, sampler=order, num_workers=1)
    return list(loader)[-1]


def with_ten_stems(song: Song) -> Song:
    """The song with as many stems, some of them more than once if it has fewer."""
    stems = [song.stems[i % len(song.stems)] for i in range(STEMS)]
    return replace(song, stems=tuple(stems))


def main(songs: int = 2, seconds: float = 240.0) -> None:
    """Write a corpus, read it in each way, print a table."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus", songs, seconds, seed=0)
        indexed = read_corpus(CorpusConfig("corpus", str(corpus))).songs
        plain = [with_ten_stems(song) for song in indexed]
        start = time.perf_counter()
        kept = StemCache(Path(folder) / "cache", FORMAT.sample_rate, 1).build(plain, workers=1)
        built = time.perf_counter() - start
        counts = (songs, MANY_SONGS) if STATUS.exists() else ()
        workers = {count: memory(kept, count) for count in counts}
        whole = rate(by_decoding_whole_stems, plain, ITEMS)
        seeking = rate(by_reading_windows, plain, 4 * ITEMS)
        cached = rate(by_reading_windows, kept, 25 * ITEMS)
    print(f"{'way':16} {'triplets/s':>10} {'ratio':>7}")
    for name, speed in (("whole stems", whole), ("seeking", seeking), ("decoded cache", cached)):
        print(f"{name:16} {speed:10.2f} {speed / whole:7.1f}")
    print(f"decoding the cache took {built:.1f} s in one thread")
    for count, own in workers.items():
        print(f"a worker has {own:.0f} MB for itself, with {count} songs")


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float), sys.argv[1:], strict=False)))
