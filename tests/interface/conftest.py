"""A tiny model with random weights, its page served by the calls of SAT's run_gradio.py."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from stable_audio_tools.interface import gradio as sat_gradio

import mge_plugin
from mge_plugin.interface.sessions import desk_of

mge_plugin.install()

RATE, WINDOW = 16000, 8192  # of the tiny model, in Hz and samples
SECONDS_TO_START = 180
ROOT = Path(__file__).parents[2]

# The calls of SAT's scripts/run_gradio.py, which is in its repository and not in its wheel.
SCRIPT = """
import argparse
from stable_audio_tools.interface.gradio import create_ui

parser = argparse.ArgumentParser()
for name in ("--model-config", "--ckpt-path", "--username", "--password"):
    parser.add_argument(name)
args = parser.parse_args()
interface = create_ui(
    model_config_path=args.model_config, ckpt_path=args.ckpt_path, pretrained_name=None,
    pretransform_ckpt_path=None, model_half=True, gradio_title="Three tracks",
)
interface.queue()
interface.launch(auth=(args.username, args.password) if args.username is not None else None)
"""


def tiny_model():
    """Random weights; prompts have an effect."""
    from mge_plugin.models.mge import create_mge_model

    torch.manual_seed(0)
    model = create_mge_model(tiny_config())
    for parameter in model.model.parameters():  # zeros would ignore prompts
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tiny_config():
    """The shipped tiny config with all sizes made smaller: frames of 256 samples."""
    config = json.loads((ROOT / "model_configs" / "mge_dit_tiny.json").read_text())
    model, autoencoder = config["model"], config["model"]["pretransform"]["config"]
    blocks = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4]}
    autoencoder["encoder"]["config"] |= blocks | {"in_channels": 32, "latent_dim": 8}
    autoencoder["decoder"]["config"] |= blocks | {"out_channels": 32, "latent_dim": 4}
    autoencoder |= {"latent_dim": 4, "in_channels": 32, "out_channels": 32}
    autoencoder["pretransform"]["config"]["patch_size"] = 32
    autoencoder["downsampling_ratio"] = 256
    model["io_channels"] = 12
    size = {"io_channels": 12, "embed_dim": 96, "num_heads": 3, "depth": 1}
    model["diffusion"]["config"] |= size
    return config | {"sample_size": WINDOW, "sample_rate": RATE, "audio_channels": 1}


def make_ui(model):
    """SAT's page with the model."""
    model.use_lora, model.lora_names = False, []  # as SAT's load_model leaves it
    return sat_gradio.create_diffusion_cond_ui(tiny_config(), in_model=model, gradio_title="T")


@pytest.fixture(scope="session", autouse=True)
def gradio_folder(tmp_path_factory):
    """Gradio's temporary folder, here and in processes started here."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture
def song():
    """Three quarters of a second of two tones, stereo, 44.1 kHz: (audio, rate)."""
    t = np.arange(33000) / 44100
    tones = [0.3 * np.sin(2 * np.pi * 220 * t), 0.2 * np.sin(2 * np.pi * 660 * t)]
    return np.stack(tones).astype(np.float32), 44100


@pytest.fixture
def song_file(song, tmp_path):
    """The song as 16-bit WAV; for pictures to show, MGE_UI_SONG names another."""
    if chosen := os.environ.get("MGE_UI_SONG"):
        return Path(chosen)
    path = tmp_path / "song.wav"
    sf.write(path, song[0].T, song[1], subtype="PCM_16")
    return path


@pytest.fixture(scope="session")
def desk():
    """The tiny model's desk."""
    return desk_of(tiny_model(), WINDOW)


def as_numpy(audio, rate):
    """(channels, samples) as Gradio hands over a 16-bit file."""
    return rate, np.rint(audio.T * 32768).astype(np.int16)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """Options of run_gradio.py that name the tiny model.

    For pictures to show, MGE_UI_MODEL names a folder with a model.json and its model.safetensors.
    """
    if chosen := os.environ.get("MGE_UI_MODEL"):
        files = (Path(chosen, "model.json"), Path(chosen, "model.safetensors"))
        return ["--model-config", files[0], "--ckpt-path", files[1]]
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model.json").write_text(json.dumps(tiny_config()))
    torch.save({"state_dict": tiny_model().state_dict()}, folder / "model.ckpt")
    return ["--model-config", folder / "model.json", "--ckpt-path", folder / "model.ckpt"]


@pytest.fixture(scope="session")
def serve(tiny_files, tmp_path_factory):
    """A function that starts the page, in an empty working directory: (address, directory).

    SAT's own script runs if STABLE_AUDIO_TOOLS_REPO names a clone of its repository.
    """
    started = []

    def start(*options):
        cwd = tmp_path_factory.mktemp("cwd")
        script = tmp_path_factory.mktemp("script") / "run_gradio.py"
        script.write_text(SCRIPT)
        if clone := os.environ.get("STABLE_AUDIO_TOOLS_REPO"):
            script = Path(clone, "run_gradio.py")
        port = _free_port()
        environment = os.environ | {
            "MGE_UI_KEEP_SECONDS": "20",
            "MGE_UI_MAX_UPLOAD": "2mb",
            "GRADIO_SERVER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "mge_plugin", script, *tiny_files, *options]
        log = (cwd.parent / f"{cwd.name}.log").open("w+")
        process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=environment, stdout=log, stderr=log
        )
        started.append(process)
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, log)
        return address, cwd

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("needs Chromium, on Debian: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(address, process, log):
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, and asks for a login
        except OSError:
            time.sleep(0.5)
    process.terminate()
    log.seek(0)
    pytest.fail(f"the page did not start:\n{log.read()[-3000:]}")
