"""Triplets a second at the paper's window (10.24 s, 16 kHz), one core: whole stems, seeking, cache.

    python benchmarks/data.py [SONGS] [SECONDS]

All read the same windows of the same MiniSlakh songs (10 stems, FLAC at 44.1 kHz) in one process.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mge_plugin.data.audio import read_audio, resample
from mge_plugin.data.cache import StemCache
from mge_plugin.data.choice import draw_window
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.minislakh import write_corpus
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, Window, make_triplet

FORMAT = Format(sample_rate=16000, samples=163840, channels=1)
STEMS = 10
WINDOWS = 12  # read by decoding whole stems; the faster ways read them REPEATS times
REPEATS = 20


def by_decoding_whole_stems(window: Window) -> None:
    """What a reader without seeking has to do for the same triplet."""
    for stem in window.song.stems:
        audio, rate = read_audio(stem.path)
        resample(audio, rate, FORMAT.sample_rate)


def by_reading_windows(window: Window) -> None:
    """The plugin's way, from whatever the stems are read from."""
    make_triplet(window, FORMAT)


def rate(read: Callable[[Window], None], windows: Sequence[Window], repeats: int = 1) -> float:
    """Windows a second."""
    start = time.perf_counter()
    for _ in range(repeats):
        for window in windows:
            read(window)
    return repeats * len(windows) / (time.perf_counter() - start)


def with_ten_stems(song: Song) -> Song:
    """The song with as many stems, some of them more than once if it has fewer."""
    stems = [song.stems[i % len(song.stems)] for i in range(STEMS)]
    return replace(song, stems=tuple(stems))


def windows_of(songs: Sequence[Song]) -> list[Window]:
    """The same windows of any copy of the songs."""
    rng = np.random.default_rng(0)
    return [draw_window(songs[i % len(songs)], FORMAT, rng) for i in range(WINDOWS)]


def main(songs: int = 2, seconds: float = 240.0) -> None:
    """Write a corpus, read it in each way, print a table."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus", songs, seconds, seed=0)
        indexed = read_corpus(CorpusConfig("corpus", str(corpus))).songs
        plain = [with_ten_stems(song) for song in indexed]
        start = time.perf_counter()
        kept = StemCache(Path(folder) / "cache", FORMAT.sample_rate, 1).build(plain, workers=1)
        built = time.perf_counter() - start
        whole = rate(by_decoding_whole_stems, windows_of(plain))
        seeking = rate(by_reading_windows, windows_of(plain), 3)
        cached = rate(by_reading_windows, windows_of(kept), REPEATS)
    print(f"{'way':16} {'triplets/s':>10} {'ratio':>7}")
    for name, speed in (("whole stems", whole), ("seeking", seeking), ("decoded cache", cached)):
        print(f"{name:16} {speed:10.2f} {speed / whole:7.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"decoding the cache took {built:.1f} s; peak memory of the process {peak:.2f} GB")


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float), sys.argv[1:], strict=False)))
