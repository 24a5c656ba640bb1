"""Items a second at the paper's window (10.24 s, 16 kHz), one core: from audio, from latents.

    python benchmarks/latents.py [SONGS] [SECONDS]

The same MiniSlakh songs; the autoencoder is the tiny one with random weights (256 samples a frame,
32 channels: four times the bytes of the paper's). What training saves beside, encoding three tracks
of every item on the GPU, is not in it.
"""

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.dataset import create_mge_dataloader
from mge_plugin.data.latents.encode import Ranks, Settings, create_encoder, encode_corpora
from mge_plugin.data.latents.store import Store
from mge_plugin.files import shipped_file
from minislakh import write_corpus

SAMPLES, BATCH, ITEMS = 163840, 8, 64


def loader(folder: Path, dataset_type: str, repeats: int) -> DataLoader:
    """In this process, so that one core does all the work."""
    entry = {"id": "songs", "path": str(folder)}
    config = {"dataset_type": dataset_type, "datasets": [entry], "epoch_items": repeats * ITEMS}
    return create_mge_dataloader(config, BATCH, SAMPLES, 16000, 1, num_workers=0)


def rate(batches: DataLoader) -> float:
    """Items a second."""
    start = time.perf_counter()
    count = sum(len(metadata) for _, metadata in batches)
    return count / (time.perf_counter() - start)


def encode(corpus: Path, out: Path) -> float:
    """Encode the corpus; seconds of songs a second of this core."""
    from stable_audio_tools.models import create_model_from_config

    config = json.loads(shipped_file("model_configs/mge_vae_tiny.json").read_text())
    torch.save(create_model_from_config(config).state_dict(), out.with_suffix(".ckpt"))
    encoder = create_encoder(
        config, out.with_suffix(".ckpt"), Settings(device="cpu"), torch.device("cpu")
    )
    read = read_corpus(CorpusConfig("songs", str(corpus)))
    start = time.perf_counter()
    encode_corpora([read], encoder, Store(out), Ranks())
    return sum(song.seconds for song in read.songs) / (time.perf_counter() - start)


def main() -> None:
    """Write a corpus, encode it, read both, print a table."""
    songs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        corpus, out = Path(folder) / "corpus", Path(folder) / "latents"
        write_corpus(corpus, songs, seconds, seed=0, progress=False)
        encoded = encode(corpus, out)
        audio = rate(loader(corpus, "mge_triplets", 1))
        latents = rate(loader(out, "mge_latents", 10))
    print(f"encoded {encoded:.1f} times as fast as it plays")
    print(f"{'items from':12} {'items/s':>8} {'ratio':>6}")
    print(f"{'audio':12} {audio:8.1f} {1.0:6.1f}")
    print(f"{'latents':12} {latents:8.1f} {latents / audio:6.1f}")


if __name__ == "__main__":
    sys.exit(main())
