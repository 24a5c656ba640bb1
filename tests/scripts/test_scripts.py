"""A user's way through stable-audio-tools' scripts: autoencoder, model, resume, export, UI."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

AVERAGED = "diffusion_ema.ema_model."
WAIT = 240  # seconds until the page must be there


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="session")
def vae(bench):
    """An autoencoder of four steps, exported."""
    run = bench.train("vae", "vae.json", "tracks.json", 4)
    wrapped = run / "epoch=0-step=4.ckpt"
    bench.script("unwrap_model.py", *unwrapping("vae.json", wrapped, "vae"))
    return bench.folder / "vae.ckpt"


@pytest.fixture(scope="session")
def run(bench, vae):
    """The folder of a training of four steps on audio, validated every two."""
    validation = ("--val-dataset-config", "triplets.json", "--val-every", 2)
    weights = ("--pretransform-ckpt-path", vae)
    return bench.train("mge", "dit.json", "triplets.json", 4, *validation, *weights)


@pytest.fixture(scope="session")
def exported(bench, run):
    """The model of that training, exported."""
    wrapped = run / "epoch=0-step=4.ckpt"
    options = unwrapping("dit.json", wrapped, "mge")
    bench.script("unwrap_model.py", *options)
    bench.script("unwrap_model.py", *options, "--use-safetensors")
    return bench.folder / "mge.safetensors"


def unwrapping(config, ckpt, name):
    return "--model-config", config, "--ckpt-path", ckpt, "--name", name


def test_the_exported_autoencoder_is_the_trained_one(bench, vae):
    trained = read(bench.folder / "runs/vae/epoch=0-step=4.ckpt")["state_dict"]
    weights = read(vae)["state_dict"]
    assert weights
    assert all(torch.equal(trained[f"autoencoder.{k}"], v) for k, v in weights.items())


def test_training_takes_the_autoencoder_and_leaves_checkpoints_and_demos(run, vae):
    saved = read(run / "epoch=0-step=4.ckpt")
    assert saved["global_step"] == 4
    for key, value in read(vae)["state_dict"].items():
        assert torch.equal(saved["state_dict"][f"diffusion.pretransform.model.{key}"], value)
    tasks = {path.name.split("_")[1] for path in (run / "demos").glob("*.wav")}
    assert tasks >= {"generate", "extract", "add", "accompany", "compose"}


def test_a_stopped_training_goes_on(bench, run):
    stopped = ("--ckpt-path", run / "epoch=0-step=4.ckpt")
    resumed = bench.train("resumed", "dit.json", "triplets.json", 8, *stopped)
    (last,) = resumed.glob("*step=8.ckpt")
    saved = read(last)
    assert saved["global_step"] == 8
    assert saved["mge_progress"] == {"items_seen": 16, "batches_in_epoch": 2, "epoch": 1}


def test_the_exported_model_is_the_average_in_either_format(run, exported):
    trained = read(run / "epoch=0-step=4.ckpt")["state_dict"]
    weights = load_file(exported)
    averaged = {k.removeprefix(AVERAGED): v for k, v in trained.items() if k.startswith(AVERAGED)}
    assert averaged
    assert all(torch.equal(weights[f"model.{k}"], v) for k, v in averaged.items())
    other = read(exported.with_suffix(".ckpt"))["state_dict"]
    assert other.keys() == weights.keys()
    assert all(torch.equal(other[key], value) for key, value in weights.items())


def test_training_starts_from_a_models_weights(bench, exported):
    """Weights that the seed does not give, further from those that it gives than training goes."""
    generator = torch.Generator().manual_seed(1)
    seeded = load_file(exported)
    weights = {
        key: value + 0.01 * torch.rand(value.shape, generator=generator)
        for key, value in seeded.items()
        if key.startswith("model.")
    }
    other = bench.folder / "other.safetensors"
    save_file(seeded | weights, other)
    start = ("--pretrained-ckpt-path", other)
    run = bench.train("pretrained", "dit.json", "triplets.json", 2, *start)
    trained = read(run / "epoch=0-step=2.ckpt")["state_dict"]
    trained = {key: trained[f"diffusion.{key}"] for key in weights}
    assert furthest(trained, weights) < 0.001
    assert furthest(trained, seeded) > 0.005


def furthest(weights, others):
    return max((value - others[key]).abs().max().item() for key, value in weights.items())


def test_training_on_encoded_latents(bench, vae):
    encode = ("-c", "from mge_plugin.cli import main; main()", "encode")
    options = ("--model-config", "dit.json", "--ckpt", vae, "--dataset-config", "triplets.json")
    done = bench.python(*encode, *options, "--out", "latents")
    assert done.returncode == 0, done.stderr
    weights = ("--pretransform-ckpt-path", vae)
    run = bench.train("latents", "dit_latents.json", "latents.json", 2, *weights)
    assert read(run / "epoch=0-step=2.ckpt")["global_step"] == 2


@pytest.mark.parametrize("dataset", ["triplets", "tracks"])
def test_pre_encode_says_what_to_use_instead(bench, vae, dataset):
    options = ("--model-config", "vae.json", "--ckpt-path", vae, "--num-workers", "0")
    data = ("--dataset-config", f"{dataset}.json", "--output-path", f"pre_{dataset}")
    done = bench.python("pre_encode.py", *options, *data)
    assert done.returncode == 1
    assert (
        f"dataset type mge_{dataset}: pre_encode.py cannot encode it, use `mge encode`"
        in (done.stderr.splitlines()[-1])
    )
    assert not (bench.folder / f"pre_{dataset}").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to train on")
def test_without_a_gpu_plain_training_ends_where_lightning_asks_for_one(bench):
    """The last step of train.py before training: loaders, model and callbacks are built by then."""
    options = ("--model-config", "dit.json", "--dataset-config", "triplets.json")
    done = bench.python("train.py", *options, "--logger", "none", "--num-workers", "0")
    assert done.returncode == 1
    assert "trainer = pl.Trainer(" in done.stderr
    assert "gpu" in done.stderr.splitlines()[-1].lower()


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_the_ui_opens_the_exported_model(bench, exported):
    port = free_port()
    options = ("--model-config", "dit.json", "--ckpt-path", str(exported))
    with (bench.folder / "gradio.log").open("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "run_gradio.py", *options],
            cwd=bench.folder,
            env=bench.environment(GRADIO_SERVER_PORT=str(port)),
            stdout=log,
            stderr=log,
        )
        try:
            status = wait_for(f"http://127.0.0.1:{port}/", server)
        finally:
            server.terminate()
            server.wait(30)
        log.seek(0)
        assert status == 200, log.read()


def wait_for(url, server):
    """The status of the page once it answers; None if the server ended or never answered."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                return page.status
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    return None
