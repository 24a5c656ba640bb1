"""`mge fit-mel`, `mge fit-text-audio` as they are typed, and `mge encode` with what they leave."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.test_encode import songs as songs  # a fixture

CONFIG = Path(__file__).parents[2] / "model_configs" / "mge_dit_minislakh.json"


@pytest.fixture
def files(songs, tmp_path):
    """A narrow model config of half-second windows, and dataset configs of both kinds."""
    config = json.loads(CONFIG.read_text())
    config["sample_size"] = 4096
    autoencoder = config["model"]["pretransform"]["config"]
    autoencoder["latent_dim"] = 4
    for part in ("encoder", "decoder"):
        autoencoder[part]["config"] |= {"latent_dim": 4, "iterations": 1}
    (conditioner,) = config["model"]["conditioning"]["configs"]
    conditioner["config"] |= {"channels": 4, "bands": 8, "words": 16}
    config["model"]["io_channels"] = 12
    config["model"]["diffusion"]["config"] |= {"io_channels": 12, "embed_dim": 96, "num_heads": 3}
    entry = {"id": "songs", "type": "folder", "path": str(songs)}
    data = {"datasets": [entry], "index_cache": None, "epoch_items": 8}
    written = {
        "model": config,
        "tracks": data | {"dataset_type": "mge_tracks"},
        "triplets": data | {"dataset_type": "mge_triplets"},
    }
    paths = {name: tmp_path / f"{name}.json" for name in written}
    for name, path in paths.items():
        path.write_text(json.dumps(written[name]))
    return paths


def options(files, data, out):
    return ["--model-config", files["model"], "--dataset-config", files[data], "--out", out]


def test_both_are_fitted_and_encode_uses_them(mge, files, tmp_path):
    mel, text = tmp_path / "mel.safetensors", tmp_path / "text.safetensors"
    code, said, complained = mge("fit-mel", *options(files, "tracks", mel), "--windows", 8)
    assert code == 0, complained
    assert "Fitted to 32 latent frames" in said
    code, said, complained = mge(
        *("fit-text-audio", *options(files, "triplets", text)),
        *("--steps", 2, "--batch-size", 2, "--device", "cpu"),
    )
    assert code == 0, complained
    assert "Trained for 2 steps" in said
    assert "texts.words.weight" in load_file(text)

    config = json.loads(files["model"].read_text())
    config["model"]["conditioning"]["configs"][0]["config"]["ckpt_path"] = str(text)
    files["model"].write_text(json.dumps(config))
    latents = options(files, "triplets", tmp_path / "latents")
    code, said, complained = mge("encode", *latents, "--ckpt", mel, "--device", "cpu")
    assert code == 0, complained
    store = json.loads((tmp_path / "latents" / "store.json").read_text())
    assert (store["ratio"], store["channels"], store["clap"]["width"]) == (1024, 4, 64)


def test_a_model_without_these_parts_is_told(mge, files, tiny, tmp_path):
    _, config, *_ = tiny
    out = tmp_path / "out.safetensors"
    tail = ["--dataset-config", files["tracks"], "--out", out]
    code, _, complained = mge("fit-mel", "--model-config", config, *tail)
    assert code == 1
    assert "whose encoder and decoder are of type mge_mel, found Oobleck" in complained
    code, _, complained = mge("fit-text-audio", "--model-config", config, *tail)
    assert code == 1
    assert "one conditioner of type mge_text_audio, found 0 of 1" in complained
    assert not out.exists()
