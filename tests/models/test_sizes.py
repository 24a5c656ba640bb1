"""The shipped configs have the sizes that they say."""

import json
from pathlib import Path

import pytest
import torch

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.mge import create_mge_model

CONFIGS = Path(__file__).parents[2] / "model_configs"


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_full_size_dit_has_the_papers_number_of_parameters():
    config = json.loads((CONFIGS / "mge_dit_16k.json").read_text())
    section = config["model"]["diffusion"]["config"]
    with torch.device("meta"):
        network = MGEDiT(parse_section(DiTConfig, section, "model.diffusion.config"))
    assert parameters(network) == 1_023_040_640


def test_the_defaults_are_the_papers():
    config = json.loads((CONFIGS / "mge_dit_16k.json").read_text())
    section = config["model"]["diffusion"]["config"]
    assert parse_section(DiTConfig, section, "") == DiTConfig()


@pytest.mark.parametrize("pair", ["16k", "tiny"])
def test_a_dit_config_holds_the_autoencoder_of_its_pair(pair):
    autoencoder = json.loads((CONFIGS / f"mge_vae_{pair}.json").read_text())
    dit = json.loads((CONFIGS / f"mge_dit_{pair}.json").read_text())
    assert dit["model"]["pretransform"]["config"] == autoencoder["model"]
    assert dit["sample_rate"] == autoencoder["sample_rate"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"io_channels": 64}, "multiple of 3"),
        ({"embed_dim": 100}, "multiple of 3"),
        ({"num_heads": 7}, "must divide embed_dim 1536, found 7"),
        ({"num_heads": 96}, "must be 32 or more, found 16"),
        ({"depth": 0}, "depth"),
        ({"timestep_features_dim": 5}, "must be even"),
        ({"norm_type": "groupnrom"}, "groupnorm"),
        ({"dept": 3}, "did you mean 'depth'"),
    ],
)
def test_sizes_that_cannot_be(section, message):
    with pytest.raises(ConfigError, match=message):
        parse_section(DiTConfig, section, "model.diffusion.config")


def test_channels_that_do_not_fit_name_both_sides():
    config = json.loads((CONFIGS / "mge_dit_tiny.json").read_text())
    config["model"]["io_channels"] = 48
    config["model"]["diffusion"]["config"]["io_channels"] = 48
    with pytest.raises(ConfigError, match=r"model\.io_channels is 48, expected 3 x 32 .* = 96"):
        create_mge_model(config)
