"""The whole demo at the smallest size: every stage runs, everything is written and opens."""

import json

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.demo.run import INSTRUMENTS, DemoSize, run_demo
from mge_plugin.inference.pipeline import load

SMALLEST = DemoSize(
    songs=3,
    seconds=5.0,
    triplets=16,
    autoencoder_steps=3,
    dit_steps=3,
    sampling_steps=2,
    generated_seconds=1.5,
)


@pytest.mark.slow
def test_the_demo_leaves_a_page_audio_and_a_model(tmp_path):
    out = tmp_path / "demo"
    page = run_demo(out, seed=0, device="cpu", size=SMALLEST)
    assert page == out / "index.html"
    html = page.read_text(encoding="utf-8")
    assert "These weights are toys" in html
    assert html.count("<audio") == 1 + 3 * len(INSTRUMENTS) + 1
    mixture, rate = sf.read(out / "mixture.wav", dtype="float32")
    for label in INSTRUMENTS:
        source, source_rate = sf.read(out / f"{label}_source.wav", dtype="float32")
        residual, _ = sf.read(out / f"{label}_residual.wav", dtype="float32")
        assert (source_rate, source.shape) == (rate, mixture.shape) == (44100, (5 * 44100,))
        np.testing.assert_allclose(source + residual, mixture, atol=1e-6)
    generated, generated_rate = sf.read(out / "generated.wav")
    assert len(generated) == 1.5 * generated_rate
    assert load(out / "model.json", out / "model.safetensors", "cpu").sample_rate == 16000
    assert json.loads((out / "model.json").read_text())["model"]["pretransform"]["scale"] > 0
    assert not list(out.glob("*.partial")) + list(out.glob(".*.tmp"))
