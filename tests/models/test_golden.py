"""Our network, samplers and loss against tensors of the published implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.models.autoencoder import decode_tracks, encode_tracks
from mge_plugin.models.given import Given
from mge_plugin.models.noise import V, per_track
from mge_plugin.tracks import Track, pack, unpack
from mge_plugin.training.objective import LossWeights, loss_weights, track_losses, weighted_mean
from tests.denoise import denoise_tracks

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.mark.parametrize("levels", ["per_track", "shared"])
def test_forward_pass(network, golden, levels):
    v = network(golden["io.x"], golden[f"io.t_{levels}"], global_cond=golden["io.global_embed"])
    assert_close(v, golden[f"io.v_{levels}"], **TOLERANCE)


def test_nothing_asked_is_an_embedding_of_zeros(network, golden):
    nothing = torch.zeros_like(golden["io.global_embed"])
    assert not network.modulate(nothing).any()
    v = network(golden["io.x"], golden["io.t_per_track"], global_cond=nothing)
    assert_close(v, golden["io.v_per_track_null_cond"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "options"),
    [("cfg2", {"cfg_scale": 2.0}), ("cfg4_rescale0p7", {"cfg_scale": 4.0, "scale_phi": 0.7})],
)
def test_guidance(network, golden, name, options):
    v = network(
        golden["io.x"], golden["io.t_per_track"], global_cond=golden["io.global_embed"], **options
    )
    assert_close(v, golden[f"io.v_per_track_{name}"], **TOLERANCE)


@pytest.mark.parametrize("track", [None, *Track])
def test_ddim_run(network, golden, track):
    given = None if track is None else Given.track(track, golden["io.given_z"])
    noise, embeddings = unpack(golden["io.noise"]), golden["io.global_embed"]
    latents = denoise_tracks(network, noise, embeddings, given, linear_schedule(7), cfg_scale=2.0)
    name = "io.ddim_total" if track is None else f"io.ddim_given_track{int(track)}"
    assert_close(pack(latents), golden[f"{name}_steps7_cfg2"], **TOLERANCE)


def test_training_step(network, golden):
    t, z0, eps = golden["io.t_per_track"], golden["io.train_z0"], golden["io.train_eps"]
    x = V.add_noise(unpack(z0), unpack(eps), per_track(t))
    target = V.target(unpack(z0), unpack(eps), per_track(t))
    assert_close(pack(x), golden["io.train_z_tau"], **TOLERANCE)
    assert_close(pack(target), golden["io.train_v_target"], **TOLERANCE)
    v = network(pack(x), t, global_cond=golden["io.global_embed"])
    weights = loss_weights(t, torch.ones_like(t), LossWeights())
    loss = weighted_mean(track_losses(unpack(v), target), weights)
    assert_close(loss, golden["io.train_loss"].squeeze(), **TOLERANCE)


def test_autoencoder_mean_and_decoding():
    from stable_audio_tools.models.factory import create_pretransform_from_config

    path = GOLDEN / "official_ae_tiny.safetensors"
    golden = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])["model"]
    for side in ("encoder", "decoder"):
        config[side] = {"type": "oobleck", "config": config[side]}
    pretransform = create_pretransform_from_config(
        {"type": "autoencoder", "config": config}, sample_rate=16000
    )
    weights = {
        key.removeprefix("pretransform.model."): value
        for key, value in golden.items()
        if key.startswith("pretransform.model.")
    }
    expected = pretransform.model.state_dict()
    assert sorted(weights) == sorted(expected)
    pretransform.model.load_state_dict(weights)
    with torch.no_grad():
        latents = encode_tracks(pretransform, golden["io.wav"][:, None])
        audio = decode_tracks(pretransform, golden["io.latent_mean"][:, None])
    assert_close(latents[:, 0], golden["io.latent_mean"], **TOLERANCE)
    assert_close(audio[:, 0], golden["io.decoded"], **TOLERANCE)
