import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sampling(monkeypatch):
    """The benchmark's module; laion-clap too has a module named `training`."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("sampling", "training"):
        monkeypatch.setitem(sys.modules, name, None)  # what is there comes back after the test
        del sys.modules[name]
    monkeypatch.setattr("training.DEVICE", "cpu")
    module = importlib.import_module("sampling")
    monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(module, "PRECISION", torch.float32)
    return module


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
@torch.no_grad()
def test_the_literal_loop_and_ours_find_the_same_latents(sampling, cfg_scale):
    extraction = sampling.Extraction(sampling.SIZES["golden"], 1)
    found = sampling.ours(extraction, cfg_scale, 5)
    assert_close(found, sampling.literal(extraction, cfg_scale, 5), atol=1e-4, rtol=0)
    assert found.std() > 0.1


@torch.no_grad()
def test_every_way_denoises_every_window(sampling):
    extraction = sampling.Extraction(sampling.SIZES["golden"], 3)
    frames = extraction.windows.size
    assert sampling.ours(extraction, 2.0, 2).shape[-1] == extraction.windows.padded_length
    for way in (sampling.literal, sampling.sats):
        latents = way(extraction, 2.0, 2)
        assert (len(latents), latents.shape[-1]) == (3, frames)
        assert torch.isfinite(latents).all()


@torch.no_grad()
def test_sats_network_is_guided(sampling):
    extraction = sampling.Extraction(sampling.SIZES["golden"], 1)
    guided, unguided = (sampling.sats(extraction, scale, 2) for scale in (2.0, 1.0))
    assert (guided - unguided).abs().max() > 1e-3
