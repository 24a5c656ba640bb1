"""The whole demo at the smallest size, with a model that the test makes: everything is written."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import demo as run
from mge_plugin.demo import INSTRUMENTS, DemoSize, run_demo
from mge_plugin.files import shipped_file
from mge_plugin.inference.pipeline import load
from tests.cli.conftest import make_config
from tests.inference.conftest import model as model  # a fixture

SMALLEST = DemoSize(songs=3, seconds=5.0, generated_seconds=1.5, steps=2)


@pytest.mark.slow
def test_the_demo_leaves_a_page_and_audio(model, tmp_path, monkeypatch):
    weights = {
        "weights/minislakh/model.json": tmp_path / "model.json",
        "weights/minislakh/model.safetensors": tmp_path / "model.ckpt",
    }
    (tmp_path / "model.json").write_text(json.dumps(make_config(4)))
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    monkeypatch.setattr(run, "shipped_file", weights.__getitem__)
    out = tmp_path / "demo"
    page = run_demo(out, seed=0, device="cpu", size=SMALLEST)
    assert page == out / "index.html"
    html = page.read_text(encoding="utf-8")
    assert "trained on synthetic songs alone" in html
    assert html.count("<audio") == 1 + 3 * len(INSTRUMENTS) + 3 + 1
    mixture, rate = sf.read(out / "mixture.wav", dtype="float32")
    for label in INSTRUMENTS:
        source, source_rate = sf.read(out / f"{label}_source.wav", dtype="float32")
        residual, _ = sf.read(out / f"{label}_residual.wav", dtype="float32")
        assert (source_rate, source.shape) == (rate, mixture.shape) == (44100, (5 * 44100,))
        np.testing.assert_allclose(source + residual, mixture, atol=1e-6)
    generated, generated_rate = sf.read(out / "generated.wav")
    assert len(generated) == 1.5 * generated_rate
    assert len(list(out.glob("new_*.wav"))) == 1
    assert not list(out.glob("*.partial")) + list(out.glob(".*.tmp"))


@pytest.fixture(scope="module")
def shipped():
    folder = shipped_file("weights/minislakh/model.json").parent
    return load(folder / "model.json", folder / "model.safetensors", "cpu"), folder


def test_the_weights_that_ship_are_small_and_open(shipped):
    pipeline, folder = shipped
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
    assert (folder / "README.md").is_file()
    assert (pipeline.sample_rate, pipeline.channels) == (16000, 1)
