"""`mge import`: from a published file to music, and back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.published import autoencoder_weights, saved, whole_weights


@pytest.fixture
def published(tmp_path):
    return saved(tmp_path / "published.ckpt", whole_weights())


def test_an_imported_model_makes_music_and_goes_back(mge, published, tmp_path, write_song):
    model, config = tmp_path / "model.safetensors", tmp_path / "model.json"
    code, said, _ = mge("import", published, "--out", model)
    assert code == 0
    assert said.splitlines() == [
        "found: the published implementation's model, float32",
        "network: 369,920 parameters",
        "autoencoder: 34,729 parameters",
        "sizes: depth 2, num_heads 3, embed_dim 96, io_channels 24, global_cond_dim 16",
        "window: 3200 samples, 0.20 s",
        f"Wrote {model}",
        f"Wrote {config}",
    ]
    assert mge("check", config)[:2] == (0, "ok: everything fits\n")
    options = ["--model-config", config, "--ckpt", model, "--prompt", "bass", "--steps", 2]
    options += ["--device", "cpu", "--out", tmp_path / "out"]
    assert mge("generate", *options)[0] == 0
    assert mge("extract", write_song(tmp_path / "song.wav", 3200), *options)[0] == 0
    names = {path.stem for path in (tmp_path / "out").glob("*.wav")}
    assert names == {"bass_seed0_mixture", "song_bass", "song_bass_residual"}
    back = tmp_path / "back.ckpt"
    code, said, _ = mge("import", model, "--out", back, "--to-official")
    tensors = torch.load(back, weights_only=True)["state_dict"]
    assert (code, said) == (0, f"Wrote {back}: {len(tensors)} tensors under the published names\n")
    assert tensors.keys() == whole_weights().keys()


def test_options_go_into_the_config(mge, published, tmp_path):
    config = tmp_path / "other.json"
    code, _, _ = mge(
        "import", published, "--out", tmp_path / "m.safetensors", "--config-out", config,
        "--norm-type", "layernorm", "--sample-rate", 44100, "--frames", 50,
    )  # fmt: skip
    content = json.loads(config.read_text())
    assert code == 0
    assert content["sample_rate"] == 44100
    assert content["sample_size"] == 50 * 32
    assert content["model"]["diffusion"]["config"]["norm_type"] == "layernorm"


def test_the_autoencoder_alone(mge, published, tmp_path):
    out = tmp_path / "vae.safetensors"
    code, said, _ = mge("import", published, "--out", out, "--autoencoder-only")
    assert code == 0
    assert said.startswith("found: an autoencoder, float32\nautoencoder: 34,729 parameters\n")
    assert load_file(out).keys() == autoencoder_weights().keys()
    assert mge("check", tmp_path / "vae.json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--out", "m.ckpt"], "--out: expected a name ending in .safetensors, found 'm.ckpt'"),
        (["--out", "m.safetensors", "--to-official"], "--out: expected a name ending in .ckpt"),
        (["--out", "m.safetensors", "--norm-type", "batch"], "norm_type: expected groupnorm or"),
        (
            ["--out", "m.ckpt", "--to-official", "--frames", "5", "--config-out", "m.json"],
            "--to-official writes weights only: leave out --config-out, --frames",
        ),
        (
            ["--out", "m.safetensors", "--config-out", "published.ckpt"],
            "--config-out: expected a name ending in .json, found 'published.ckpt'",
        ),
        (["--out", "published.ckpt", "--to-official"], "is the file to be read; choose another"),
    ],
)
def test_what_cannot_be_is_told(mge, published, monkeypatch, arguments, wrong):
    monkeypatch.chdir(published.parent)
    code, said, error = mge("import", published, *arguments)
    assert (code, said) == (1, "")
    assert error.startswith("error: ")
    assert wrong in error
    assert [path.name for path in Path().iterdir()] == ["published.ckpt"]


def test_a_web_page_is_named_before_sat_is_imported_and_nothing_is_written(run_main, tmp_path):
    page = tmp_path / "page.ckpt"
    page.write_text("<!DOCTYPE html><html>")
    result = run_main("import", page, "--out", tmp_path / "m.safetensors")
    assert result.returncode == 1
    assert "a web page, saved in place of the file; download it again" in result.stderr
    assert "stable_audio_tools" not in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["page.ckpt"]
