"""Songs indexed a second: cold (headers only) and warm (sizes and times of files alone).

python benchmarks/index.py 2100 10      the size of Slakh2100; by default a tenth of it
"""

import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import yaml

from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig

RATE, SAMPLES = 44_100, 4_410


def write_songs(root: Path, songs: int, stems: int) -> None:
    """Songs in Slakh's layout, every stem its own copy of a tenth of a second of noise."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLES)
    sf.write(root / "noise.flac", noise, RATE)
    flac = (root / "noise.flac").read_bytes()
    for song in range(songs):
        folder = root / "train" / f"Track{song:05d}"
        (folder / "stems").mkdir(parents=True)
        listed = {}
        for stem in range(stems):
            (folder / "stems" / f"S{stem:02d}.flac").write_bytes(flac)
            listed[f"S{stem:02d}"] = {
                "audio_rendered": True,
                "inst_class": "Piano",
                "integrated_loudness": -18.5,
                "is_drum": False,
                "midi_program_name": "Acoustic Grand Piano",
                "midi_saved": True,
                "plugin_name": "piano.nkm",
                "program_num": 8 * stem,
            }
        metadata = {"UUID": f"{song:032x}", "audio_dir": "stems", "stems": listed}
        (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def seconds(config: CorpusConfig, cache: Path | None) -> float:
    """What reading the index takes."""
    start = time.perf_counter()
    read_corpus(config, cache)
    return time.perf_counter() - start


def main() -> None:
    """Write a corpus, index it three times, print a table."""
    logging.disable(logging.WARNING)
    songs, stems = (int(argument) for argument in (sys.argv[1:] or (210, 10)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "corpus"
        root.mkdir()
        write_songs(root, songs, stems)
        config = CorpusConfig("songs", str(root))
        cache = Path(folder) / "cache"
        times = {
            "no cache": seconds(config, None),
            "cold": seconds(config, cache),
            "warm": seconds(config, cache),
        }
    print(f"{songs} songs of {stems} stems")
    print(f"{'index':10} {'s':>6} {'songs/s':>8} {'ratio':>6}")
    for name, taken in times.items():
        print(f"{name:10} {taken:6.2f} {songs / taken:8.0f} {times['cold'] / taken:6.1f}")


if __name__ == "__main__":
    sys.exit(main())
