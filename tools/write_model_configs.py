"""Write the model configs that differ from another one in a few values only.

    python tools/write_model_configs.py

stable-audio-tools reads whole files, so each variant is a complete file. The table below has its
differences, and a test compares the files with it.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "model_configs"

PAPER = "mge_dit_16k.json"
_NETWORK = "model.diffusion.config"
_VAE = "model.pretransform.config"
_GENERATION_ONLY = {"none": 1, "mixture": 0, "submixture": 0, "source": 0}


def _stereo_44k(autoencoder: str) -> dict[str, Any]:
    return {
        "sample_rate": 44100,
        "audio_channels": 2,
        f"{autoencoder}.encoder.config.in_channels": 2,
        f"{autoencoder}.decoder.config.out_channels": 2,
        f"{autoencoder}.io_channels": 2,
    }


# file -> (file that it varies, {dotted key: value})
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mge_dit_16k_nonadaptive.json": (PAPER, {"training.timesteps.patterns": _GENERATION_ONLY}),
    "mge_dit_16k_layernorm.json": (PAPER, {f"{_NETWORK}.norm_type": "layernorm"}),
    "mge_dit_16k_dropout50.json": (PAPER, {"training.cfg_dropout_prob": 0.5}),
    "mge_dit_16k_pretrain.json": (
        PAPER,
        {
            "training.timesteps.patterns": _GENERATION_ONLY,
            "training.loss_weights": {"mixture": 1, "submixture": 1, "source": 0},
        },
    ),
    "mge_dit_16k_rectified_flow.json": (
        PAPER,
        {"model.diffusion.diffusion_objective": "rectified_flow"},
    ),
    "mge_dit_16k_300m.json": (
        PAPER,
        {f"{_NETWORK}.embed_dim": 1152, f"{_NETWORK}.depth": 12, f"{_NETWORK}.num_heads": 36},
    ),
    "mge_dit_16k_100m.json": (
        PAPER,
        {f"{_NETWORK}.embed_dim": 768, f"{_NETWORK}.depth": 9, f"{_NETWORK}.num_heads": 24},
    ),
    "mge_dit_44k_stereo.json": (PAPER, _stereo_44k(_VAE) | {"sample_size": 524288}),
    "mge_dit_44k_stereo_300m.json": (
        "mge_dit_44k_stereo.json",
        {f"{_NETWORK}.embed_dim": 1152, f"{_NETWORK}.depth": 12, f"{_NETWORK}.num_heads": 36},
    ),
    "mge_vae_44k_stereo.json": (
        "mge_vae_16k.json",
        _stereo_44k("model") | {"sample_size": 65536},
    ),
}


def variant(name: str) -> dict[str, Any]:
    """The content of one of `VARIANTS`."""
    base, changes = VARIANTS[name]
    config = variant(base) if base in VARIANTS else json.loads((FOLDER / base).read_text())
    return changed(config, changes)


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the values at some dotted keys replaced; a missing key raises KeyError."""
    config = copy.deepcopy(dict(config))
    for path, value in changes.items():
        *parents, key = path.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        if key not in section:
            raise KeyError(f"{path}: not in the base config")
        section[key] = value
    return config


if __name__ == "__main__":
    for file in VARIANTS:
        (FOLDER / file).write_text(json.dumps(variant(file), indent=4) + "\n")
