"""The demo from nothing to a page: corpus, toy autoencoder, toy DiT, extraction, generation."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from tqdm import tqdm

from mge_plugin import registry
from mge_plugin.data.audio import fit_length, read_audio, write_wav
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.minislakh import write_corpus
from mge_plugin.data.songs import Song
from mge_plugin.demo import toy
from mge_plugin.demo.page import Extraction, write_demo_page
from mge_plugin.inference.pipeline import Pipeline, Sampling, load, pick
from mge_plugin.prompts import label_prompt

logger = logging.getLogger(__name__)

INSTRUMENTS = ("bass", "drums", "guitar", "piano")
PATTERNS = {"none": 1, "mixture": 3, "submixture": 0.5, "source": 0.5}  # more of extraction


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the defaults take about three minutes on two CPU cores."""

    songs: int = 20
    seconds: float = 16.0  # a song
    triplets: int = 640
    autoencoder_steps: int = 500
    autoencoder_batch: int = 8
    dit_steps: int = 1000
    dit_batch: int = 8
    generated_seconds: float = 8.0
    sampling_steps: int = 3  # an undertrained network does better in few, without guidance
    cfg_scale: float = 1.0


def run_demo(out: Path, seed: int, device: str, size: DemoSize | None = None) -> Path:
    """Make everything under `out` and return the path of its page."""
    size, start = size or DemoSize(), time.monotonic()
    registry.install()
    toy.settle()
    pl.seed_everything(seed, workers=True)
    device = pick(device)
    corpus = write_corpus(out / "corpus", size.songs, size.seconds, seed)
    train_toy(out, corpus, seed, device, size)
    trained = time.monotonic() - start
    pipeline = load(out / "model.json", out / "model.safetensors", device)
    song = held_out_song(corpus)
    sampling = Sampling(  # no gate: what a toy makes is shown as it is
        steps=size.sampling_steps, cfg_scale=size.cfg_scale, seed=seed, gate=False
    )
    extractions = extract_all(pipeline, song, sampling)
    prompt = label_prompt(INSTRUMENTS)
    generated = pipeline.generate(prompt, seconds=size.generated_seconds, sampling=sampling)
    _write_results(out, extractions, generated.audio["mixture"], generated.sample_rate)
    facts = {
        "Device": device,
        "Held-out song": song.id,
        "Sampling": f"{size.sampling_steps} DDIM steps, no guidance",
        "Corpus and training": f"{trained:.0f} s",
        "All": f"{time.monotonic() - start:.0f} s",
        "Training": f"{size.autoencoder_steps} + {size.dit_steps} steps",
    }
    return write_demo_page(out / "index.html", song, extractions, generated, prompt, facts)


def train_toy(out: Path, corpus: Path, seed: int, device: str, size: DemoSize) -> None:
    """Train the toy pair on the corpus, leave `model.json` and `model.safetensors` in `out`."""
    vae_config, dit_config = _shipped("mge_vae_tiny"), _shipped("mge_dit_tiny")
    cycle = _one_cycle(3e-3, size.autoencoder_steps)
    vae_config["training"]["optimizer_configs"] = {"autoencoder": cycle}
    dataset_config = {
        "dataset_type": "mge_triplets",
        "seed": seed,
        "epoch_items": size.triplets,
        "datasets": [{"id": "minislakh", "path": str(corpus), "split": "train"}],
    }
    items = toy.draw_triplets(dataset_config, dit_config)
    count = size.autoencoder_steps * size.autoencoder_batch
    crops = toy.RandomCrops(items, vae_config["sample_size"], count, seed, one_track=True)
    logger.info("training a toy autoencoder, %d steps", size.autoencoder_steps)
    vae = toy.fit(vae_config, crops, size.autoencoder_batch, device)
    latents, scale = toy.encode_items(vae.autoencoder, items)
    dit_config["model"]["pretransform"]["scale"] = scale
    dit_config["training"] |= {
        "pre_encoded": True,
        "optimizer_configs": {"diffusion": _one_cycle(1.5e-3, size.dit_steps)},
        "timesteps": {"patterns": PATTERNS},
    }
    count, frames = size.dit_steps * size.dit_batch, latents[0][0].shape[-1]
    crops = toy.RandomCrops(latents, frames, count, seed, one_track=False)
    logger.info("training a toy three-track DiT, %d steps", size.dit_steps)
    wrapper = toy.fit(dit_config, crops, size.dit_batch, device, vae.autoencoder)
    toy.export(wrapper, dit_config, out / "model")


def _one_cycle(rate: float, steps: int) -> dict[str, Any]:
    """Optimizer and schedule of a run of minutes: the learning rate rises, and ends low."""
    cycle = {"max_lr": rate, "total_steps": steps, "pct_start": 0.1}
    return {
        "optimizer": {"type": "AdamW", "config": {"lr": rate, "betas": [0.9, 0.99]}},
        "scheduler": {"type": "OneCycleLR", "config": cycle},
    }


def held_out_song(corpus: Path) -> Song:
    """The test song that has most of the instruments asked for."""
    songs = read_corpus(CorpusConfig("demo", str(corpus), split="test")).songs
    return max(songs, key=lambda song: len({s.label for s in song.stems} & set(INSTRUMENTS)))


def extract_all(pipeline: Pipeline, song: Song, sampling: Sampling) -> list[Extraction]:
    """Extract every instrument from the song's mixture file, beside the true stem."""
    mixture, rate = read_audio(song.path / "mix.flac")
    extractions = []
    for label in tqdm(INSTRUMENTS, desc="extracting", unit="source"):
        prompt = label_prompt(label)
        result = pipeline.extract(mixture, rate, prompt, sampling)
        truth = _sum_of_stems(song, label, mixture)
        extractions.append(Extraction(label, prompt, mixture, truth, result))
    return extractions


def _sum_of_stems(song: Song, label: str, like: np.ndarray) -> np.ndarray:
    total = np.zeros_like(like)
    for stem in song.stems:
        if stem.label == label:
            total += fit_length(read_audio(stem.path)[0], like.shape[1])
    return total


def _write_results(
    out: Path, extractions: list[Extraction], generated: np.ndarray, rate: int
) -> None:
    for e in extractions:
        for name, audio in e.result.audio.items():
            write_wav(out / f"{e.label}_{name}.wav", audio, e.result.sample_rate)
    write_wav(out / "mixture.wav", extractions[0].mixture, extractions[0].result.sample_rate)
    write_wav(out / "generated.wav", generated, rate)


def _shipped(name: str) -> Mapping[str, Any]:
    """A model config of the repository, or of the installed package's data."""
    from mge_plugin.files import shipped_file

    return json.loads(shipped_file(f"model_configs/{name}.json").read_text(encoding="utf-8"))
