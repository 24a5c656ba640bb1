"""Every shipped model config: what it varies, its size, that it is built and trains."""

import json
from pathlib import Path

import pytest
import torch
import write_model_configs as tool
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from torch.utils.data import DataLoader

from mge_plugin import registry
from mge_plugin.config import parse_section
from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.mge import model_problems
from mge_plugin.registry import is_our_model
from mge_plugin.training.config import training_problems

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "model_configs"

# Millions of parameters of the network, without autoencoder and CLAP.
MILLIONS = {
    "mge_dit_16k.json": 1023,
    "mge_dit_16k_nonadaptive.json": 1023,
    "mge_dit_16k_layernorm.json": 1023,
    "mge_dit_16k_dropout50.json": 1023,
    "mge_dit_16k_pretrain.json": 1023,
    "mge_dit_16k_rectified_flow.json": 1023,
    "mge_dit_16k_300m.json": 289,
    "mge_dit_16k_100m.json": 98,
    "mge_dit_44k_stereo.json": 1023,
    "mge_dit_44k_stereo_300m.json": 289,
    "mge_dit_first.json": 3,
    "mge_dit_minislakh.json": 11,
    "mge_dit_tiny.json": 3,
}


def read(name):
    return json.loads((CONFIGS / name).read_text())


NETWORKS = sorted(p.name for p in CONFIGS.glob("*.json") if is_our_model(read(p.name)))


@pytest.mark.parametrize("name", sorted(tool.VARIANTS))
def test_a_variant_differs_as_its_table_says(name):
    assert read(name) == tool.variant(name), "run: python tools/write_model_configs.py"


def test_a_key_that_the_base_does_not_have_is_no_variant():
    with pytest.raises(KeyError, match=r"training\.lerning_rate: not in the base config"):
        tool.changed({"training": {"learning_rate": 1}}, {"training.lerning_rate": 2})


@pytest.mark.parametrize("name", NETWORKS)
def test_size(name):
    section = read(name)["model"]["diffusion"]["config"]
    with torch.device("meta"):
        network = MGEDiT(parse_section(DiTConfig, section, name))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == MILLIONS[name]


def narrow(config):
    """The same model with few channels, one block and a short window, asked in hashed words."""
    network = config["model"]["diffusion"]["config"]
    autoencoder = config["model"]["pretransform"]["config"]
    network |= {"embed_dim": 96, "depth": 1, "num_heads": 3, "global_cond_dim": 16}
    network["use_checkpointing"] = False
    conditioning = config["model"]["conditioning"]
    conditioning["cond_dim"] = 16
    for entry in conditioning["configs"]:
        entry |= {"type": "mge_hashed_words", "config": {}}
    for side in ("encoder", "decoder"):
        if "channels" in autoencoder[side]["config"]:
            autoencoder[side]["config"]["channels"] = 4
    config["training"] |= {"pre_encoded": False, "allow_random_autoencoder": True}
    config["sample_size"] = 4 * autoencoder["downsampling_ratio"]
    return config


@pytest.mark.parametrize("name", NETWORKS)
def test_a_config_is_built_and_trains(name, trainer):
    registry.install()
    config = narrow(read(name))
    assert model_problems(config) == []
    assert training_problems(config, [torch.nn.Parameter(torch.zeros(1))]) == []
    torch.manual_seed(0)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    reals = 0.1 * torch.randn(2, 3 * config["audio_channels"], config["sample_size"])
    metadata = [{"prompt": {"source": f"The sound of the {name}"}} for name in ("bass", "piano")]
    before = [p.detach().clone() for p in wrapper.diffusion.model.parameters()]
    trainer(max_steps=1).fit(wrapper, DataLoader([(reals, metadata)], batch_size=None))
    after = list(wrapper.diffusion.model.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any((p != q).any() for p, q in zip(before, after, strict=True))
