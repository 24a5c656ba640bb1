"""From files to a pipeline, and the pipeline under torch.compile."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import mge_plugin
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling
from tests.cli.conftest import make_config
from tests.inference.conftest import RATE, WINDOW

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
QUICK = Sampling(steps=2, gate=False, refine="none", window_batch=2)


@pytest.fixture
def files(model, tmp_path):
    """A model config and its checkpoint."""
    (tmp_path / "model.json").write_text(json.dumps(make_config(4)))
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    return tmp_path / "model.json", tmp_path / "model.ckpt"


def test_a_model_is_opened_from_its_files(files, pipeline, noise):
    opened = mge_plugin.load(*files, device="cpu")
    song = noise(5000)
    found, expected = (p.extract(song, RATE, "bass", QUICK) for p in (opened, pipeline))
    assert_allclose(found.audio["source"], expected.audio["source"], atol=1e-6)
    assert not opened.model.training
    assert not any(p.requires_grad for p in opened.model.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_network_has_the_precision_asked_for_and_the_autoencoder_float32(files, dtype):
    opened = mge_plugin.load(*files, device="cpu", dtype=dtype)
    assert opened.model.model.model.preprocess_conv.weight.dtype == getattr(torch, dtype)
    assert {p.dtype for p in opened.model.pretransform.parameters()} == {torch.float32}


def test_a_network_is_compiled_on_the_cpu_without_graphs(files, monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: calls.append((type(self), k)))
    opened = mge_plugin.load(*files, device="cpu", compiled=True)
    assert calls == [(type(opened.model.model.model), {"mode": None, "dynamic": False})]


@pytest.mark.slow
def test_a_compiled_network_makes_the_same_song(model, noise):
    """Traced and run without building C++; windows of a last, smaller batch are another shape."""
    from copy import deepcopy

    torch._dynamo.reset()
    compiled, eager = (Pipeline(deepcopy(model), WINDOW, 1, "cpu") for _ in range(2))
    compiled.model.model.model.compile(backend="aot_eager", dynamic=False)
    song = noise(3 * WINDOW)
    found, expected = (p.extract(song, RATE, "bass", QUICK) for p in (compiled, eager))
    assert_allclose(found.audio["source"], expected.audio["source"], atol=1e-4)
    assert np.abs(expected.audio["source"]).max() > 1e-3
    torch._dynamo.reset()
