"""`mge import`: from a published file to music, and back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def published(tmp_path):
    network = load_file(GOLDEN / "official_dit_groupnorm_tiny.safetensors")
    autoencoder = load_file(GOLDEN / "official_ae_tiny.safetensors")
    weights = {k: v for k, v in (network | autoencoder).items() if not k.startswith("io.")}
    torch.save({"state_dict": weights}, tmp_path / "published.ckpt")
    return tmp_path / "published.ckpt"


def test_an_imported_model_makes_music(mge, published, tmp_path):
    code, said, _ = mge("import", published, "--out", tmp_path / "model.safetensors")
    assert code == 0
    assert "network: " in said
    assert "autoencoder: " in said
    assert "window: 3200 samples, 0.20 s" in said
    model, config = tmp_path / "model.safetensors", tmp_path / "model.json"
    assert f"Wrote {model}" in said
    assert f"Wrote {config}" in said
    mge(
        "generate", "--model-config", config, "--ckpt", model, "--prompt", "bass", "--steps", 2,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert list((tmp_path / "out").glob("*_mixture.wav"))
    mge("import", model, "--out", tmp_path / "back.ckpt", "--to-official")
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    assert back.keys() == torch.load(published, weights_only=True)["state_dict"].keys()


def test_options_go_into_the_config(mge, published, tmp_path):
    config = tmp_path / "other.json"
    mge(
        "import", published, "--out", tmp_path / "m.safetensors", "--config-out", config,
        "--norm-type", "layernorm", "--sample-rate", 44100, "--frames", 50,
    )  # fmt: skip
    content = json.loads(config.read_text())
    assert content["sample_rate"] == 44100
    assert content["sample_size"] == 50 * 32
    assert content["model"]["diffusion"]["config"]["norm_type"] == "layernorm"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--out", "model.ckpt"], "--out: expected a name ending in .safetensors"),
        (["--out", "m.safetensors", "--norm-type", "batch"], "--norm-type: expected groupnorm or"),
    ],
)
def test_what_cannot_be_is_told(mge, published, arguments, wrong):
    code, _, said = mge("import", published, *arguments)
    assert code == 1
    assert wrong in said


def test_a_web_page_is_told(mge, tmp_path):
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>")
    code, _, said = mge("import", tmp_path / "page.ckpt", "--out", tmp_path / "m.safetensors")
    assert code == 1
    assert "a web page, saved in place of the file; download it again" in said
    assert not list(tmp_path.glob("*.safetensors"))
