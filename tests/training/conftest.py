"""A tiny model and a tiny MiniSlakh, opened through SAT's factories."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl

from mge_plugin import registry
from mge_plugin.data.minislakh import write_corpus

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


@pytest.fixture
def trainer(tmp_path):
    """A Trainer on one CPU process, quiet; options go to Lightning."""

    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(**defaults | options)

    return make
