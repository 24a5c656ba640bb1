"""A tiny model and a tiny MiniSlakh, opened through SAT's factories."""

import json
from pathlib import Path

import pytest

from mge_plugin import registry
from minislakh import write_corpus

CONFIGS = Path(__file__).parents[2] / "model_configs"


@pytest.fixture(autouse=True)
def registered():
    registry.install()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("minislakh") / "corpus", 4, 8.0, 0, progress=False)


@pytest.fixture
def model_config():
    config = json.loads((CONFIGS / "mge_dit_tiny.json").read_text())
    config["sample_size"] = 8192
    config["model"]["diffusion"]["config"] |= {"embed_dim": 96, "depth": 2, "num_heads": 3}
    config["training"]["demo"] |= {"demo_every": 1000, "demo_steps": 2, "num_demos": 2}
    return config


@pytest.fixture
def dataset_config(corpus):
    return {
        "dataset_type": "mge_triplets",
        "epoch_items": 12,
        "datasets": [{"id": "minislakh", "path": str(corpus), "split": "train"}],
    }
