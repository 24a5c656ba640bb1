"""A tiny model with random weights, and songs for it."""

import numpy as np
import pytest
import torch

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.models.mge import create_mge_model
from tests.cli.conftest import make_config

RATE, WINDOW = 16000, 2048  # of the tiny model, in Hz and samples


@pytest.fixture(scope="session")
def model():
    """Its autoencoder and its network have random weights."""
    torch.manual_seed(0)
    model = create_mge_model(make_config(4))
    for parameter in model.model.parameters():  # or its zeros make it deaf to prompts
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def pipeline(model):
    """The tasks on the tiny model, on the CPU."""
    return Pipeline(model, WINDOW, 1, "cpu")


@pytest.fixture(scope="session")
def noise():
    """A function that makes a song of noise, (channels, samples)."""

    def make(samples, channels=1, seed=0):
        rng = np.random.default_rng(seed)
        return rng.uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)

    return make
