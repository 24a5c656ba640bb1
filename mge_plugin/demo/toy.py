"""Train the demo's toy autoencoder and toy DiT, through SAT's factories and Lightning.

Triplets are drawn once and kept in memory: at this size reading files would take longer than
training.
"""

import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.pretransforms import AutoencoderPretransform
from stable_audio_tools.training import create_training_wrapper_from_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mge_plugin.data.audio import rms_db
from mge_plugin.data.batches import collate
from mge_plugin.data.triplets import MAX_TRIES
from mge_plugin.files import write_file
from mge_plugin.models.latents import encode_tracks
from mge_plugin.tracks import NUM_TRACKS, pack

Item = tuple[Tensor, dict[str, Any]]

AUDIBLE_DB = -45.0  # RMS of a crop that the autoencoder learns from, dBFS


class RandomCrops(Dataset):
    """Crops of `size` at random places of items kept in memory; one track's or all of them.

    One track's are taken where it sounds, if it does: SAT 0.0.19's spectral loss divides by the
    level of its target.
    """

    def __init__(self, items: list[Item], size: int, count: int, seed: int, one_track: bool):
        self.items = items
        self.size = size
        self.count = count
        self.seed = seed
        self.one_track = one_track

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng([self.seed, index])
        for _ in range(MAX_TRIES):
            crop, metadata = self._draw(rng)
            if not self.one_track or rms_db(crop.numpy()) > AUDIBLE_DB:
                break
        return crop, metadata

    def _draw(self, rng: np.random.Generator) -> Item:
        reals, metadata = self.items[rng.integers(len(self.items))]
        if self.one_track:
            reals = reals.unflatten(0, (NUM_TRACKS, -1))[rng.integers(NUM_TRACKS)]
        start = int(rng.integers(reals.shape[-1] - self.size + 1))
        return reals[..., start : start + self.size], metadata


def draw_triplets(dataset_config: Mapping[str, Any], model: Mapping[str, Any]) -> list[Item]:
    """Every triplet of one epoch of a dataset config, as its loader gives them."""
    loader = create_dataloader_from_config(
        dataset_config,
        batch_size=8,
        sample_size=model["sample_size"],
        sample_rate=model["sample_rate"],
        audio_channels=model["audio_channels"],
        num_workers=2,
    )
    items = []
    for reals, metadata in tqdm(loader, desc="drawing triplets", unit="batch"):
        items += zip(reals, metadata, strict=True)
    return items


def fit(
    model_config: Mapping[str, Any],
    data: RandomCrops,
    batch_size: int,
    device: str,
    autoencoder: nn.Module | None = None,
) -> pl.LightningModule:
    """Train a model config on `data`, once through, and return SAT's training wrapper.

    `autoencoder` is the trained one that a DiT is to work in.
    """
    model = create_model_from_config(model_config)
    if autoencoder is not None:
        model.pretransform.load_state_dict(autoencoder.state_dict())
    wrapper = create_training_wrapper_from_config(model_config, model)
    trainer = pl.Trainer(
        accelerator=_accelerator(device),
        devices=1,
        max_epochs=1,
        gradient_clip_val=1.0 if autoencoder is not None else None,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(wrapper, DataLoader(data, batch_size, collate_fn=collate))
    return wrapper.to("cpu")


def encode_items(autoencoder: nn.Module, items: list[Item]) -> tuple[list[Item], float]:
    """Latents (k*c, n) of every item, and their deviation: the pretransform's `scale`."""
    pretransform = AutoencoderPretransform(autoencoder.eval())
    encoded = []
    with torch.no_grad():
        for reals, metadata in tqdm(items, desc="encoding", unit="window"):
            audio = reals.unflatten(0, (NUM_TRACKS, -1))[None]
            encoded.append((pack(encode_tracks(pretransform, audio))[0], metadata))
    deviation = torch.stack([latents for latents, _ in encoded]).std().item()
    return encoded, round(deviation, 4)


def export(wrapper: pl.LightningModule, config: Mapping[str, Any], stem: Path) -> None:
    """Write the averaged weights (`.safetensors`) and the config (`.json`) that belongs to them."""
    partial = stem.with_suffix(".partial")
    wrapper.export_model(str(partial), use_safetensors=True)
    partial.replace(stem.with_suffix(".safetensors"))
    write_file(stem.with_suffix(".json"), json.dumps(config, indent=4).encode())


def settle() -> None:
    """Leave half of the cores to others, and the progress bars alone on the screen.

    The toys' layers are so small that threads which must wait for a busy core cost more than they
    bring: up to five times as long a step was seen. Lightning's notes on hardware are noise here.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module="torch|pytorch_lightning")


def _accelerator(device: str) -> str:
    return {"cuda": "gpu"}.get(device, device)
