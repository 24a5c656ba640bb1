"""A network that knows the answer must make the sampler return it."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.inference.sampling import T_MIN, ddim_step, linear_schedule, sample_ddim
from mge_plugin.models.given import Given
from mge_plugin.models.noise import OBJECTIVES, V, per_track
from mge_plugin.tracks import NUM_TRACKS, Track

SHAPE = (2, NUM_TRACKS, 8, 20)


@pytest.fixture
def latents():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def oracle(latents):
    """The exact v of `latents` at any x and t."""

    def predict(x, t):
        alpha, sigma = V.alpha_sigma(per_track(t))
        return (alpha * x - latents) / sigma

    return predict


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_ddim_finds_latents_that_an_oracle_knows(latents, noise, steps, name):
    objective = OBJECTIVES[name]

    def oracle(x, t):
        return objective.towards(latents, x, per_track(t))

    found = sample_ddim(oracle, noise, linear_schedule(steps), objective=objective)
    assert_close(found, latents, atol=1e-4, rtol=0)


def test_a_step_of_rectified_flow_is_eulers(latents, noise):
    t, t_next = torch.tensor(0.8), torch.tensor(0.35)
    flow = OBJECTIVES["rectified_flow"]
    moved, _ = ddim_step(noise, latents, t, t_next, flow)
    assert_close(moved, noise + (t_next - t) * latents)


def test_a_schedule_may_end_at_zero(oracle, latents, noise):
    found = sample_ddim(oracle, noise, torch.linspace(1, 0, 11))
    assert_close(found, latents, atol=1e-4, rtol=0)


def test_a_step_lands_on_the_noise_process(latents, noise):
    t, t_next = torch.full((2, NUM_TRACKS), 0.8), torch.full((2, NUM_TRACKS), 0.35)
    t, t_next = per_track(t), per_track(t_next)
    x, v = V.add_noise(latents, noise, t), V.target(latents, noise, t)
    moved, denoised = ddim_step(x, v, t, t_next)
    assert_close(moved, V.add_noise(latents, noise, t_next), atol=1e-6, rtol=0)
    assert_close(denoised, latents, atol=1e-6, rtol=0)


@pytest.mark.parametrize("track", list(Track))
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_given_track_is_clean_in_every_call_and_in_the_result(latents, noise, track, name):
    """Algorithm 2: the network always sees the known latents at level 0."""
    known, objective = latents[:, track], OBJECTIVES[name]
    given = Given.track(track, known)
    seen = []

    def network(x, t):
        inside, levels = given.insert(x), given.levels(t)
        seen.append((inside[:, track].clone(), levels.clone()))
        prediction = objective.towards(latents, inside, per_track(t))
        return given.predict(x, prediction, t, objective)

    found = sample_ddim(network, noise, linear_schedule(9), objective=objective)
    assert len(seen) == 9
    for inside, levels in seen:
        assert_close(inside, known, rtol=0, atol=0)
        assert (levels[:, track] == 0).all()
        assert (levels.sum(dim=1) > 0).all()
    assert_close(found, latents, atol=1e-4, rtol=0)


def test_items_of_a_batch_may_have_different_given_tracks(oracle, latents, noise):
    mask = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    given = Given(latents, mask)
    levels = given.levels(torch.full((2, NUM_TRACKS), 0.5))
    assert_close(levels, torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]]))
    inside = given.insert(noise)
    assert_close(inside[0, 0], latents[0, 0])
    assert_close(inside[1, 0], noise[1, 0])
    assert_close(inside[1, 2], latents[1, 2])


def test_the_callback_sees_every_step(oracle, noise):
    steps = []
    sample_ddim(oracle, noise, linear_schedule(5), steps.append)
    assert [step["i"] for step in steps] == [0, 1, 2, 3, 4]
    assert steps[0]["denoised"].shape == noise.shape
    assert float(steps[0]["t"]) == 1.0


def test_the_schedule_is_the_papers():
    schedule = linear_schedule(250)
    assert_close(schedule, torch.linspace(1, 0.02, 250))
    assert T_MIN == 0.02


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"1 or more, found {steps}"):
        linear_schedule(steps)


def test_a_rising_schedule_is_refused(oracle, noise):
    with pytest.raises(ValueError, match="levels must fall"):
        sample_ddim(oracle, noise, torch.tensor([1.0, 0.5, 0.7]))
