"""The whole demo at the smallest size, with a model that the test makes: everything is written."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import demo
from mge_plugin.demo import INSTRUMENTS, _DemoSize, run_demo
from mge_plugin.inference.pipeline import load
from mge_plugin.models.hub import DEFAULT_MODEL, find_model
from tests.cli.conftest import make_config
from tests.inference.conftest import model as model  # a fixture

SMALLEST = _DemoSize(songs=3, seconds=5.0, generated_seconds=1.5, steps=2)


@pytest.mark.slow
def test_the_demo_leaves_a_page_and_audio(model, tmp_path, monkeypatch):
    config = make_config(4) | {"card": {"notice": "weights of a test"}}
    (tmp_path / "model.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    monkeypatch.setattr(demo, "find_model", lambda _: find_model(tmp_path))
    out = tmp_path / "out"
    page = run_demo(out, seed=0, device="cpu", size=SMALLEST)
    assert page == out / "index.html"
    html = page.read_text(encoding="utf-8")
    assert "weights of a test" in html
    assert html.count("<audio") >= 4 * len(INSTRUMENTS) + 3 + 1
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


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=str(tmp_path)):
        run_demo(tmp_path, seed=0, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_shipped_weights_are_small_and_described():
    model = find_model(DEFAULT_MODEL)
    folder = model.ckpt.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
    assert (folder / "README.md").is_file()
    assert {"bass", "drums"} <= set(model.card.labels) and model.card.license and model.card.notice
    pipeline = load(model.config_file, model.ckpt, device="cpu")
    assert (pipeline.sample_rate, pipeline.channels) == (16000, 1)
