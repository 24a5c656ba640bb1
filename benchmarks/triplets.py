"""Triplets a second at the paper's window (10.24 s, 16 kHz): seeking against whole stems.

Both read the same windows of the same MiniSlakh songs in one process.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mge_plugin.data.audio import read_audio, resample
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.minislakh import write_corpus
from mge_plugin.data.triplets import Format, Window, draw_window, make_triplet

FORMAT = Format(sample_rate=16000, samples=163840, channels=1)
WINDOWS = 12
SONGS, SECONDS = 3, 120.0


def by_decoding_whole_stems(window: Window) -> None:
    """What a reader without seeking has to do for the same triplet."""
    for stem in window.song.stems:
        audio, rate = read_audio(stem.path)
        resample(audio, rate, FORMAT.sample_rate)


def by_seeking(window: Window) -> None:
    """The plugin's way."""
    make_triplet(window, FORMAT)


def rate(read: Callable[[Window], None], windows: list[Window]) -> float:
    """Windows a second."""
    start = time.perf_counter()
    for window in windows:
        read(window)
    return len(windows) / (time.perf_counter() - start)


def main() -> None:
    """Write a corpus, read it both ways, print a table."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus", SONGS, SECONDS, seed=0, progress=False)
        songs = read_corpus(CorpusConfig("corpus", str(corpus))).songs
        rng = np.random.default_rng(0)
        windows = [draw_window(songs[i % len(songs)], FORMAT, rng) for i in range(WINDOWS)]
        whole, seeking = rate(by_decoding_whole_stems, windows), rate(by_seeking, windows)
    print(f"{'way':16} {'triplets/s':>10} {'ratio':>6}")
    print(f"{'whole stems':16} {whole:10.2f} {1.0:6.1f}")
    print(f"{'seeking':16} {seeking:10.2f} {seeking / whole:6.1f}")


if __name__ == "__main__":
    sys.exit(main())
