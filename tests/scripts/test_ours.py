"""Our own train.py and unwrap_model.py, which run where there is no clone."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from mge_plugin import registry, scripts
from mge_plugin.config import ConfigError
from mge_plugin.models.hub import find_model
from tests.cli.conftest import make_config


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a model config, a dataset config and a small corpus."""
    registry.install()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for song in "ab":
        for stem in ("bass", "drums", "piano"):
            path = tmp_path / "songs" / song / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, rng.uniform(-0.1, 0.1, 16000), 16000)
    model = make_config(latent_dim=4)
    model["training"] |= {"demo": {"demo_every": 100, "demo_steps": 2, "num_demos": 1}}
    model["training"]["allow_random_autoencoder"] = True
    entry = {"id": "songs", "type": "folder", "path": "songs"}
    data = {"dataset_type": "mge_triplets", "datasets": [entry], "index_cache": None}
    (tmp_path / "model.json").write_text(json.dumps(model))
    (tmp_path / "data.json").write_text(json.dumps(data | {"epoch_items": 8}))
    return tmp_path


def test_a_training_is_resumed_unwrapped_and_opened(files):
    line = ["--model-config", "model.json", "--dataset-config", "data.json", "--logger", "none"]
    line += ["--batch-size", "2", "--num-workers", "0", "--precision", "32", "--save-dir", "run"]
    scripts.train([*line, "--max-steps", "1", "--checkpoint-every", "1"])
    (first,) = (files / "run").glob("*.ckpt")
    scripts.train([*line, "--max-steps", "2", "--checkpoint-every", "1", "--ckpt-path", str(first)])
    (last,) = (files / "run").glob("*step=2.ckpt")
    trained = torch.load(last, weights_only=True)
    assert trained["global_step"] == 2
    assert find_model(last).config == json.loads((files / "model.json").read_text())
    line = ["--model-config", "model.json", "--ckpt-path", str(last), "--name", "x"]
    scripts.unwrap_model([*line, "--use-safetensors"])
    weights = load_file("x.safetensors")
    name = "model.preprocess_conv.weight"
    averaged = trained["state_dict"][f"diffusion_ema.ema_model.{name}"]
    assert torch.equal(weights[f"model.{name}"], averaged)
    with pytest.raises(ConfigError, match=r"x\.ckpt"):
        torch.save({"state_dict": weights}, "x.ckpt")
        scripts.unwrap_model(["--model-config", "model.json", "--ckpt-path", "x.ckpt"])
