"""Half precision and autocast: levels and the sampler's state stay float32, drift is small."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Finish, Sampling
from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.models.dit import _TimestepFeatures
from mge_plugin.models.given import Given
from mge_plugin.models.mge import create_mge_model
from mge_plugin.tracks import Track, unpack
from tests.denoise import denoise_tracks

CONFIGS = Path(__file__).parents[2] / "model_configs"

# (type of the weights, type under autocast) -> relative error of one call, and of ten DDIM steps:
# twice what was measured
PRECISIONS = {
    "bf16 autocast": (torch.float32, torch.bfloat16, 0.012, 0.007),
    "fp16 autocast": (torch.float32, torch.float16, 0.0015, 0.001),
    "bfloat16": (torch.bfloat16, None, 0.014, 0.01),
    "half": (torch.float16, None, 0.002, 0.0012),
}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    return PRECISIONS[request.param]


def autocast(dtype):
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def relative_error(found, expected):
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def test_one_call_drifts_little(make_network, golden, precision):
    weights, computed_in, bound, _ = precision
    arguments = golden["io.x"], golden["io.t_per_track"], golden["io.global_embed"]
    expected = make_network()(*arguments)
    with autocast(computed_in):
        v = make_network().to(weights)(*arguments)
    assert v.dtype == torch.float32
    assert 0 < relative_error(v, expected) < bound


def test_ten_steps_drift_little_and_their_state_is_float32(make_network, golden, precision):
    weights, computed_in, _, bound = precision
    given = Given.track(Track.MIXTURE, golden["io.given_z"])
    types = set()

    def run(network, callback=None):
        noise, embeddings = unpack(golden["io.noise"]), golden["io.global_embed"]
        return denoise_tracks(network, noise, embeddings, given, linear_schedule(10), 2.0, callback)

    def note(state):
        types.update(state[name].dtype for name in ("x", "t", "denoised"))

    with autocast(computed_in):
        latents = run(make_network().to(weights), note)
    assert types == {torch.float32}
    assert latents.dtype == torch.float32
    assert 0 < relative_error(latents, run(make_network())) < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_close_levels_stay_apart(dtype):
    """The features' frequencies reach 50 turns: a level rounded to bf16 is off by half a turn."""
    torch.manual_seed(0)
    features, t = _TimestepFeatures(256), torch.tensor([[0.02, 0.021, 1.0]])
    expected = features(t)
    assert (expected[0, 0] - expected[0, 1]).abs().max() > 0.1
    with torch.autocast("cpu", dtype):
        assert_close(features(t), expected)
    halved = features.to(dtype)
    assert halved.weight.dtype == torch.float32
    assert_close(halved(t), expected)


def test_the_features_are_told_levels_in_float32(make_network, golden):
    network, seen = make_network().half(), []
    network.model.timestep_features.register_forward_hook(
        lambda _, arguments, features: seen.extend([arguments[0], features])
    )
    t = torch.tensor([[0.0, 0.02, 0.02], [0.0, 0.021, 0.021]])
    network(golden["io.x"], t, global_cond=golden["io.global_embed"])
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    assert_close(seen[0], t)
    v = network(
        golden["io.x"][:1].repeat(2, 1, 1), t, golden["io.global_embed"][:1].repeat(2, 1, 1)
    )
    assert not torch.equal(v[0], v[1])


def test_a_half_state_gets_a_half_prediction(make_network, golden):
    arguments = golden["io.x"].half(), golden["io.t_per_track"], golden["io.global_embed"].half()
    v = make_network().half()(*arguments)
    assert v.dtype == torch.float16
    assert v.isfinite().all()


def test_sats_samplers_keep_their_state_in_float32(make_network):
    """They take the type of the first parameter."""
    for network in (make_network().half(), make_network().bfloat16()):
        assert next(network.parameters()).dtype == torch.float32
        assert {p.dtype for p in list(network.parameters())[1:]} != {torch.float32}


def test_features_follow_to_another_device_and_back_from_double():
    features = _TimestepFeatures(8)
    weight = features.weight.detach().clone()
    assert features.double().weight.dtype == torch.float32
    assert_close(features.weight.detach(), weight)
    assert features.to("meta").weight.device.type == "meta"
    with torch.device("meta"):
        empty = _TimestepFeatures(8).half()
    assert empty.to_empty(device="cpu").weight.dtype == torch.float32


@pytest.fixture
def tiny_model():
    """Autoencoder, conditioner and network; no layer is left at zeros."""
    torch.manual_seed(0)
    config = json.loads((CONFIGS / "mge_dit_tiny.json").read_text())
    config["model"]["diffusion"]["config"] |= {"embed_dim": 96, "depth": 2, "num_heads": 3}
    model = create_mge_model(config)
    for parameter in model.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.003), (torch.bfloat16, 0.022)])
def test_the_whole_pipeline_runs_on_a_halved_model(tiny_model, dtype, bound):
    """As SAT's interface halves it: autoencoder and all, on the CPU too."""
    audio = 0.1 * np.random.default_rng(0).standard_normal((1, 8192)).astype(np.float32)
    sampling = Sampling.paper(steps=4)

    def extract(model):
        pipeline = Pipeline(model, sample_size=8192, channels=1, device="cpu")
        made = pipeline.extract(
            (audio, 16000), "the sound of the bass", sampling=sampling, finish=Finish("none")
        )
        return made.audio["bass"]

    expected = extract(tiny_model)
    source = extract(tiny_model.to(dtype))
    assert source.dtype == np.float32
    assert source.shape == (1, 8192)
    error = relative_error(torch.from_numpy(source), torch.from_numpy(expected))
    assert 0 < error < bound, error
