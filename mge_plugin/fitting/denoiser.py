"""A three-track model trained by its own configs for so many steps, through SAT's factories.

What SAT's train.py does, without its loggers and demos: for small models that are made in one go.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from stable_audio_tools.models import factory as models
from stable_audio_tools.training import factory as training

from mge_plugin import registry
from mge_plugin.encoding.autoencoder import autoencoder_weights
from mge_plugin.files import write_file, written_whole
from mge_plugin.fitting.loading import open_loader
from mge_plugin.models.checkpoints import (
    CheckpointError,
    load_weights,
    misfits,
    read_checkpoint,
)
from mge_plugin.models.mge import MGEModel

STATE = "training"  # the checkpoint in the output folder that a stopped run goes on from


def fit_denoiser(
    model_config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    weights: Path,
    out: Path,
    *,
    steps: int,
    batch_size: int,
    precision: str = "32-true",
    device: str = "cpu",
    workers: int = 1,
    every: int = 500,
) -> Path:
    """Train and write `model.json` and `model.safetensors` (averaged weights) in `out`.

    `weights` are the autoencoder's, or a whole model's to go on with.
    The state is kept every `every` steps; the same call goes on from it.
    """
    registry.install()
    model = models.create_model_from_config(model_config)
    _load(model, weights)
    wrapper = training.create_training_wrapper_from_config(model_config, model)
    loader = open_loader(dataset_config, model_config, batch_size, workers)
    keeper = ModelCheckpoint(
        out, filename=STATE, every_n_train_steps=every, enable_version_counter=False
    )
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        max_steps=steps,
        precision=precision,
        gradient_clip_val=1.0,
        callbacks=[keeper],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=True,
    )
    state = out / f"{STATE}.ckpt"
    trainer.fit(wrapper, loader, ckpt_path=str(state) if state.exists() else None)
    return export(wrapper.to("cpu"), model_config, out)


def export(wrapper: pl.LightningModule, config: Mapping[str, Any], out: Path) -> Path:
    """Write the averaged weights (`model.safetensors`) and their config (`model.json`)."""
    out.mkdir(parents=True, exist_ok=True)
    with written_whole(out / "model.safetensors") as partial:
        wrapper.export_model(str(partial), use_safetensors=True)
    write_file(out / "model.json", json.dumps(config, indent=4).encode())
    return out


def halve(source: Path, target: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Copy safetensors with every tensor of floats in half precision."""
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source).items()
    }
    with written_whole(target) as partial:
        save_file(tensors, partial)
    return target


def _load(model: MGEModel, path: Path) -> None:
    weights = read_checkpoint(path)
    if any(name.startswith("model.") for name in weights):
        load_weights(model, path)
        return
    autoencoder = model.pretransform.model
    weights = autoencoder_weights(weights)
    if problems := misfits(autoencoder.state_dict(), weights):
        raise CheckpointError(f"{path}: does not fit the autoencoder: {'; '.join(problems)}")
    autoencoder.load_state_dict(weights)
