import copy
import json

import numpy as np
import pytest
import soundfile as sf
import yaml

from mge_plugin.check import check_configs

OOBLECK = {"c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
VAE = {
    "encoder": {"type": "oobleck", "config": OOBLECK | {"in_channels": 32, "latent_dim": 64}},
    "decoder": {"type": "oobleck", "config": OOBLECK | {"out_channels": 32, "latent_dim": 32}},
    "bottleneck": {"type": "vae"},
    "latent_dim": 32,
    "downsampling_ratio": 256,
    "io_channels": 1,
    "in_channels": 32,
    "out_channels": 32,
    "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 32}},
}
TINY = {
    "model_type": "diffusion_cond_inpaint",
    "sample_size": 32768,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": {
        "pretransform": {"type": "autoencoder", "iterate_batch": False, "config": VAE},
        "conditioning": {
            "configs": [{"id": "prompt", "type": "mge_hashed_words", "config": {}}],
            "cond_dim": 64,
        },
        "diffusion": {
            "type": "mge_dit",
            "diffusion_objective": "v",
            "global_cond_ids": ["prompt"],
            "config": {
                "io_channels": 96,
                "embed_dim": 192,
                "depth": 4,
                "num_heads": 6,
                "global_cond_dim": 64,
            },
        },
        "io_channels": 96,
    },
    "training": {
        "use_ema": True,
        "pre_encoded": False,
        "cfg_dropout_prob": 0.1,
        "timesteps": {"t_min": 0.02, "patterns": {"none": 1, "mixture": 1, "source": 0.5}},
        "optimizer_configs": {
            "diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}}
        },
        "demo": {"demo_every": 500, "demo_cfg_scales": [2]},
    },
}
TINY_VAE = {
    "model_type": "autoencoder",
    "sample_size": 16384,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": VAE,
    "training": {},
}


def _write(path, config):
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def tiny():
    """A three-track model's config without a fault, of fixed sizes."""
    return copy.deepcopy(TINY)


@pytest.fixture
def tiny_vae():
    """Its autoencoder's."""
    return copy.deepcopy(TINY_VAE)


@pytest.fixture
def check(tmp_path):
    """Problems of a model config and, if given, of a dataset config, without the files' names."""

    def run(model, dataset=None):
        model_path = _write(tmp_path / "model.json", model)
        dataset_path = None if dataset is None else _write(tmp_path / "dataset.json", dataset)
        problems = check_configs(model_path, dataset_path)
        return [
            p.removeprefix(f"{model_path}: ").removeprefix(f"{dataset_path}: ") for p in problems
        ]

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two songs in Slakh's layout, stems of other rates than the model's."""
    root = tmp_path_factory.mktemp("slakh")
    for number, rate in ((1, 48000), (2, 8000)):
        song = root / "train" / f"Track{number:05d}"
        (song / "stems").mkdir(parents=True)
        stems = {"S00": {"program_num": 33, "is_drum": False}, "S01": {"program_num": 128}}
        (song / "metadata.yaml").write_text(yaml.safe_dump({"stems": stems}))
        for name in stems:
            sf.write(song / "stems" / f"{name}.wav", np.full(rate, 0.1), rate)
    return root


@pytest.fixture
def triplets():
    """The dataset config of some corpora."""

    def config(*paths, **options):
        datasets = [{"id": f"c{i}", "path": str(path)} for i, path in enumerate(paths)]
        return {"dataset_type": "mge_triplets", "datasets": datasets} | options

    return config


@pytest.fixture
def changed():
    """A function that copies a config with (place, value) changes; a place is dotted, or keys."""

    def change(config, *changes):
        config = copy.deepcopy(config)
        for place, value in changes:
            *outer, last = place.split(".") if isinstance(place, str) else place
            section = config
            for key in outer:
                section = section[key]
            section[last] = value
        return config

    return change
