"""The noise process (paper, eqs. 1, 2, 9 and 10), and what is predicted of it."""

import math

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.models.noise import OBJECTIVES, V, per_track
from mge_plugin.tracks import NUM_TRACKS, pack, unpack

CLOSE = {"atol": 1e-6, "rtol": 0.0}


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture
def latents():
    return torch.randn(2, NUM_TRACKS, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise():
    return torch.randn(2, NUM_TRACKS, 4, 5, generator=torch.Generator().manual_seed(2))


LEVELS = per_track(torch.tensor([[0.0, 0.4, 1.0], [0.02, 0.5, 0.9]]))


def test_alpha_and_sigma_of_v_are_cos_and_sin():
    alpha, sigma = V.alpha_sigma(torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    assert_close(alpha, torch.tensor([1.0, math.cos(math.pi / 6), math.sqrt(0.5), 0.0]))
    assert_close(alpha**2 + sigma**2, torch.ones(4))


def test_rectified_flow_goes_straight(latents, noise):
    flow = OBJECTIVES["rectified_flow"]
    assert_close(flow.add_noise(latents, noise, torch.tensor(0.25)), 0.75 * latents + 0.25 * noise)
    assert_close(flow.target(latents, noise, torch.tensor(0.25)), noise - latents)


def test_the_target_is_the_direction_that_x_moves_in(objective, latents, noise):
    """Eq. 2: the derivative of x by its angle (v), by its level (flow)."""
    latents, noise = latents.double(), noise.double()
    t, step = torch.tensor(0.3), 1e-3
    moved = objective.add_noise(latents, noise, t + step) - objective.add_noise(
        latents, noise, t - step
    )
    speed = math.pi / 2 if objective is V else 1.0
    assert_close(moved / (2 * step * speed), objective.target(latents, noise, t), atol=1e-3, rtol=0)


def test_levels_are_float32_whatever_they_come_in(objective):
    for value in objective.alpha_sigma(torch.tensor([0.02], dtype=torch.bfloat16)):
        assert value.dtype == torch.float32
    for value in objective.weights(torch.tensor([0.02], dtype=torch.bfloat16)):
        assert value.dtype == torch.float32


def test_a_clean_track_stays_as_it_is_and_a_noised_one_ends_as_noise(objective, latents, noise):
    x = objective.add_noise(latents, noise, LEVELS)
    assert_close(x[0, 0], latents[0, 0])
    assert_close(x[0, 2], noise[0, 2], **CLOSE)


def test_a_prediction_gives_back_latents_and_noise(objective, latents, noise):
    x = objective.add_noise(latents, noise, LEVELS)
    prediction = objective.target(latents, noise, LEVELS)
    assert_close(objective.denoised(x, prediction, LEVELS), latents, **CLOSE)
    assert_close(objective.noise(x, prediction, LEVELS), noise, **CLOSE)


def test_a_prediction_towards_latents_implies_them(objective, latents, noise):
    t = LEVELS.clamp_min(0.02)
    prediction = objective.towards(latents, noise, t)
    assert_close(objective.denoised(noise, prediction, t), latents, atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [0.0, 1e-6, 1.0])
def test_all_is_finite_at_both_ends(objective, latents, noise, level):
    t = torch.tensor(level)
    x, target = objective.add_noise(latents, noise, t), objective.target(latents, noise, t)
    for value in (x, target, objective.denoised(x, target, t), objective.towards(latents, x, t)):
        assert value.isfinite().all()


def test_packing_stacks_tracks_on_channels():
    tracks = torch.arange(2 * NUM_TRACKS * 4 * 5).reshape(2, NUM_TRACKS, 4, 5)
    packed = pack(tracks)
    assert packed.shape == (2, 12, 5)
    assert_close(packed[:, 4:8], tracks[:, 1])
    assert_close(unpack(packed), tracks)
