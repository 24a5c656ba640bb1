"""The recipe of the shipped weights at the smallest size: every step once, to a model that runs."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from mge_plugin.files import shipped_file
from mge_plugin.inference.pipeline import load
from mge_plugin.inference.request import Sampling
from mge_plugin.standins import recipe
from mge_plugin.standins.recipe import RecipeSize, make_weights

SHIPPED = RecipeSize()
SMALLEST = RecipeSize(
    songs=3,
    seconds=6.0,
    windows=16,
    text_audio_steps=2,
    text_audio_batch=2,
    phases=tuple(replace(SHIPPED.phases[i], steps=2, precision="32-true") for i in (3, -1)),
    batch_size=2,
)


@pytest.mark.slow
def test_from_nothing_to_a_model(tmp_path, monkeypatch):
    out = make_weights(tmp_path / "work", tmp_path / "out", "cpu", size=SMALLEST)
    weights = load_file(out / "model.safetensors")
    assert {str(t.dtype) for t in weights.values() if t.is_floating_point()} == {"torch.float16"}
    assert "ckpt_path" not in json.dumps(json.loads((out / "model.json").read_text())["model"])
    pipeline = load(out / "model.json", out / "model.safetensors", device="cpu")
    song = 0.1 * np.random.default_rng(0).standard_normal((1, 24000)).astype(np.float32)
    sampling = Sampling(steps=2, cfg_scale=1.0)
    result = pipeline.extract((song, 16000), "The sound of the bass", sampling=sampling)
    assert result.audio["bass"].shape == song.shape
    assert np.isfinite(result.audio["bass"]).all()

    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").glob("*.safetensors")}
    assert len(made) == 2
    calls = []
    monkeypatch.setattr(recipe, "fit_denoiser", lambda *a, **k: calls.append(k) or a[3])
    make_weights(tmp_path / "work", tmp_path / "out", "cpu", size=SMALLEST)
    assert made == {p: p.stat().st_mtime_ns for p in made}
    assert [call["steps"] for call in calls] == [2, 2]


def test_the_shipped_weights_took_these_steps():
    assert [phase.steps for phase in SHIPPED.phases] == [8000, 800, 7500, 1200, 3000, 2000]
    card = shipped_file("weights/minislakh/README.md").read_text()
    named = re.findall(r"^\| denoiser[^|]*\| (\d+) steps", card, re.MULTILINE)
    assert [int(steps) for steps in named] == [phase.steps for phase in SHIPPED.phases]
