import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import cli
from mge_plugin.inference import pipeline
from mge_plugin.models.mge import create_mge_model

ROOT = Path(__file__).parents[2]
RATE, WINDOW = 16000, 2048  # of the tiny model, in Hz and samples


def make_config(latent_dim):
    """The shipped tiny config with all sizes made smaller: windows of 8 frames of 256 samples."""
    config = json.loads((ROOT / "model_configs" / "mge_dit_tiny.json").read_text())
    model, autoencoder = config["model"], config["model"]["pretransform"]["config"]
    blocks = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4]}
    autoencoder["encoder"]["config"] |= blocks | {"in_channels": 32, "latent_dim": 2 * latent_dim}
    autoencoder["decoder"]["config"] |= blocks | {"out_channels": 32, "latent_dim": latent_dim}
    autoencoder |= {"latent_dim": latent_dim, "in_channels": 32, "out_channels": 32}
    autoencoder["pretransform"]["config"]["patch_size"] = 32
    autoencoder["downsampling_ratio"] = 256
    model["io_channels"] = 3 * latent_dim
    size = {"io_channels": 3 * latent_dim, "embed_dim": 96, "num_heads": 3, "depth": 1}
    model["diffusion"]["config"] |= size
    return config | {"sample_size": WINDOW, "sample_rate": RATE, "audio_channels": 1}


@pytest.fixture(scope="session", autouse=True)
def load_once():
    """Each model is loaded once in a session: results never depend on earlier ones."""
    load, loaded = pipeline.load, {}

    def load_cached(*arguments, **options):
        key = repr((arguments, options))
        if key not in loaded:
            loaded[key] = load(*arguments, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load", load_cached)
        yield


@pytest.fixture(scope="session")
def tiny_config():
    """A model config with which everything is quick."""
    return make_config(latent_dim=4)


@pytest.fixture(scope="session")
def tiny(tiny_config, tmp_path_factory):
    """Options that name a model with random weights, without defaults of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model.json").write_text(json.dumps(tiny_config))
    torch.manual_seed(0)
    model = create_mge_model(tiny_config)
    for parameter in model.model.parameters():  # or its zeros make it deaf to prompts
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"state_dict": model.state_dict()}, folder / "model.ckpt")
    return ["--model-config", str(folder / "model.json"), "--ckpt", str(folder / "model.ckpt")]


@pytest.fixture(scope="session")
def other_ckpt(tmp_path_factory):
    """Weights of a model with twice the latent channels."""
    path = tmp_path_factory.mktemp("other") / "other.ckpt"
    torch.save(create_mge_model(make_config(8)).state_dict(), path)
    return path


@pytest.fixture
def mge(monkeypatch, capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def task(mge, tiny, tmp_path):
    """Run a task of the tiny model in two steps into a folder: (exit code, stdout, stderr)."""

    def run(command, *arguments, out="out"):
        options = ["--out", tmp_path / out, "--steps", 2, "--device", "cpu"]
        return mge(command, *tiny, *options, *arguments)

    return run


@pytest.fixture
def made(tmp_path):
    """A function that reads the audio files of a folder under tmp_path, by name, and its JSONs."""

    def read(out="out"):
        folder = tmp_path / out
        audio = {
            path.relative_to(folder).as_posix(): sf.read(path, dtype="float32", always_2d=True)[0]
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".wav", ".flac")
        }
        infos = {
            path.relative_to(folder).as_posix(): json.loads(path.read_text())
            for path in sorted(folder.rglob("*.json"))
        }
        return audio, infos

    return read


@pytest.fixture(scope="session")
def write_song():
    """A function that writes noise as a song."""

    def write(path, frames, rate=RATE, channels=1, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels)), rate)
        return path

    return write


@pytest.fixture(scope="session")
def run_python():
    """A function that runs code in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run(code):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def run_main(run_python):
    """The real command in a process of its own, and which slow packages it imported."""

    def run(*arguments):
        return run_python(
            "import atexit, sys\n"
            "slow = ('torch', 'gradio', 'stable_audio_tools')\n"
            "atexit.register(lambda: print('SLOW', [m for m in slow if m in sys.modules]))\n"
            "from mge_plugin.cli import main\n"
            f"sys.argv = {['mge', *map(str, arguments)]}\n"
            "main()\n"
        )

    return run
