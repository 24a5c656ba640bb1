"""The autoencoder of a model config with its weights, whatever file they are in."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_audio_tools.models.factory import create_pretransform_from_config
from torch import nn

from mge_plugin import registry
from mge_plugin.check.autoencoder import check_autoencoder
from mge_plugin.config import ConfigError, found
from mge_plugin.models.checkpoints import CheckpointError, StateDict, misfits, read_checkpoint
from mge_plugin.models.from_tensors import by_prefix
from mge_plugin.models.official import old_weight_norm

HASHED = (
    "encoder",
    "bottleneck",
    "pretransform",
    "latent_dim",
    "downsampling_ratio",
    "io_channels",
)


def open_autoencoder(config: Mapping[str, Any], ckpt: Path) -> nn.Module:
    """SAT's pretransform around the autoencoder, its latents unscaled as SAT stores them.

    `config` is an autoencoder's or that of a model with one; `ckpt` holds the autoencoder's
    weights, alone or in a whole model.
    """
    registry.install()
    section = autoencoder_section(config)
    wrapped = {"type": "autoencoder", "config": section}
    pretransform = create_pretransform_from_config(wrapped, config["sample_rate"])
    weights = autoencoder_weights(old_weight_norm(read_checkpoint(ckpt)))
    if problems := misfits(pretransform.model.state_dict(), weights):
        raise CheckpointError(f"{ckpt}: does not fit the autoencoder: {'; '.join(problems)}")
    pretransform.model.load_state_dict(weights)
    return pretransform.eval().requires_grad_(False)


def autoencoder_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The autoencoder's own section of a model config; another kind of model raises."""
    model = config.get("model")
    where = "model"
    if config.get("model_type") != "autoencoder":
        model = model.get("pretransform") if isinstance(model, Mapping) else None
        kind = model.get("type") if isinstance(model, Mapping) else None
        if kind != "autoencoder":
            raise ConfigError(
                f"the model config has no autoencoder: model_type is "
                f"{found(config.get('model_type'))}, model.pretransform.type is {found(kind)}"
            )
        model, where = model.get("config"), "model.pretransform.config"
    if problems := check_autoencoder(config, where):
        raise ConfigError(*problems)
    return model


def autoencoder_weights(weights: StateDict) -> StateDict:
    """The autoencoder's tensors by their own names; all of them, so that misfits show."""
    return next(filter(None, by_prefix(weights)))


def fingerprint(section: Mapping[str, Any], autoencoder: nn.Module) -> str:
    """The same for the same latents: of what the config says of encoding, and of all weights."""
    told = {name: section[name] for name in HASHED if section.get(name) is not None}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
