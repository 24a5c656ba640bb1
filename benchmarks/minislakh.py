"""How much faster than it plays is MiniSlakh written? One process, everything included."""

import sys
import tempfile
import time
from pathlib import Path

from minislakh import write_corpus

SIZES = ((8, 15.0), (8, 30.0), (4, 120.0))  # songs, seconds a song


def main() -> None:
    """Write each size into a temporary folder and print a table."""
    print(f"{'songs':>5} {'seconds each':>12} {'took, s':>8} {'x real time':>11}")
    for songs, seconds in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_corpus(Path(folder) / "corpus", songs, seconds, seed=0, progress=False)
            took = time.perf_counter() - start
        print(f"{songs:5d} {seconds:12.0f} {took:8.1f} {songs * seconds / took:11.0f}")


if __name__ == "__main__":
    sys.exit(main())
