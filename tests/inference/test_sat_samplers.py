"""Every sampler of stable-audio-tools, called as its UI calls it, keeps a given track."""

import json
from pathlib import Path

import pytest
import torch
from stable_audio_tools.inference.generation import generate_diffusion_cond
from torch.testing import assert_close

from mge_plugin.inference.request import SAT_SAMPLERS
from mge_plugin.models.given import Given
from mge_plugin.models.mge import GIVEN, create_mge_model
from mge_plugin.tracks import Track, unpack

TINY = Path(__file__).parents[2] / "model_configs" / "mge_dit_tiny.json"

# What a sampler itself leaves of the noise of six steps: two end at SAT's lowest level, and the
# last of rk4's predictions is asked for at level 0, where x tells nothing of it.
LEFT = {"k-dpm-fast": 0.05, "k-dpm-adaptive": 0.05, "rk4": 0.5}


@pytest.fixture(scope="module")
def models():
    """By objective: a small model whose every weight is random."""

    def create(objective):
        config = json.loads(TINY.read_text())
        config["model"]["diffusion"]["diffusion_objective"] = objective
        config["model"]["diffusion"]["config"] |= {"embed_dim": 96, "depth": 2, "num_heads": 3}
        torch.manual_seed(0)
        model = create_mge_model(config).eval().requires_grad_(False)
        for parameter in model.model.parameters():
            parameter.normal_(std=0.1)
        return model

    return {objective: create(objective) for objective in SAT_SAMPLERS}


def run(model, sampler, given=None, negative=None, steps=6):
    """Latents (b, k, c, n) of `generate_diffusion_cond`, two items, guidance 3."""
    prompts = [{"prompt": {"source": "The sound of the bass"}}] * 2
    tensors = model.conditioner(prompts, "cpu") | {GIVEN: given}
    latents = generate_diffusion_cond(
        model,
        steps=steps,
        cfg_scale=3.0,
        conditioning_tensors=tensors,
        negative_conditioning=negative,
        batch_size=2,
        sample_size=16 * model.pretransform.downsampling_ratio,
        sample_rate=model.sample_rate,
        seed=1,
        device="cpu",
        return_latents=True,
        sampler_type=sampler,
    )
    return unpack(latents)


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [(o, sampler) for o, names in SAT_SAMPLERS.items() for sampler in names],
)
def test_a_given_track_comes_back(models, objective, sampler):
    model = models[objective]
    known = torch.randn(2, model.io_channels // 3, 16)
    latents = run(model, sampler, Given.track(Track.MIXTURE, known))
    assert_close(latents[:, Track.MIXTURE], known, atol=LEFT.get(sampler, 1e-4), rtol=0)
    assert latents.isfinite().all()


@pytest.mark.parametrize(("objective", "sampler"), [("v", "k-heun"), ("rectified_flow", "euler")])
@pytest.mark.parametrize("negative", [None, [{"prompt": {"source": "noise"}}] * 2])
def test_what_is_asked_is_projected_once_a_run(models, objective, sampler, negative):
    model, calls = models[objective], []
    block = model.model.model.transformer.layers[0]
    hook = block.to_modulations.register_forward_hook(lambda *_: calls.append(block))
    run(model, sampler, negative=negative)
    hook.remove()
    assert len(calls) == (1 if negative is None else 2)


def test_a_negative_prompt_changes_the_result(models):
    negative = [{"prompt": {"source": "noise"}}] * 2
    model = models["v"]
    assert (run(model, "v-ddim") - run(model, "v-ddim", negative=negative)).abs().max() > 1e-3
