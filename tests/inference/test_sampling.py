"""Samplers: an oracle's latents come back, orders are what they claim, references are literal."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stable_audio_tools.inference.generation import generate_diffusion_cond
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.inference.request import OUR_SAMPLERS, SAT_SAMPLERS, Sampling
from mge_plugin.inference.sampling import (
    _T_MIN,
    SCHEDULES,
    ItemNoise,
    _back,
    _log_snr_schedule,
    _renew,
    _sample_dpm_solver,
    _sample_heun,
    _sample_repaint,
    candidate_seed,
    check_sampler,
    ddim_step,
    linear_schedule,
    sample,
    sample_ddim,
    sampler_names,
)
from mge_plugin.models.given import Given
from mge_plugin.models.mge import _GIVEN, create_mge_model
from mge_plugin.models.noise import OBJECTIVES, V, per_track
from mge_plugin.tracks import NUM_TRACKS, Track, unpack

SHAPE = (2, NUM_TRACKS, 4, 10)


def randn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def fresh(draw):
    return randn(1000 + draw)


def run(model, noise, callback=None, objective=V, given=None, **options):
    """`sample` with noise that the test knows."""
    drawn = SimpleNamespace(first=lambda: noise, fresh=fresh)
    return sample(Sampling(**options), model, drawn, callback, objective, given)


def with_options(sampler):
    """The sampler, with the options that it alone has."""
    return {"sampler": sampler} | {"ddim": {"eta": 0.5}, "repaint": {"resamplings": 2}}.get(
        sampler, {}
    )


@pytest.fixture
def latents():
    return randn(1)


@pytest.fixture
def noise():
    return randn(2)


@pytest.fixture
def oracle(latents):
    """The exact v of `latents` at any x and t."""
    return lambda x, t: V.towards(latents, x, per_track(t))


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("sampler", OUR_SAMPLERS)
def test_a_sampler_finds_latents_that_an_oracle_knows(
    latents, noise, sampler, objective, steps, schedule
):
    objective = OBJECTIVES[objective]

    def oracle(x, t):
        return objective.towards(latents, x, per_track(t))

    options = with_options(sampler) | {"steps": steps, "schedule": schedule}
    assert_close(run(oracle, noise, objective=objective, **options), latents, atol=1e-4, rtol=0)


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


def test_the_schedule_is_the_papers():
    schedule = linear_schedule(250)
    assert_close(schedule, torch.linspace(1, 0.02, 250))
    assert _T_MIN == 0.02


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"1 or more, found {steps}"):
        linear_schedule(steps)


def test_a_rising_schedule_is_refused(oracle, noise):
    with pytest.raises(ValueError, match="levels must fall"):
        sample_ddim(oracle, noise, torch.tensor([1.0, 0.5, 0.7]))


MEAN, DEVIATION = 0.7, 0.4


def gaussian(x, t):
    """The exact v of data N(MEAN, DEVIATION^2)."""
    alpha, sigma = V.alpha_sigma(per_track(t).double())
    variance = (alpha * DEVIATION) ** 2 + sigma**2
    denoised = MEAN + alpha * DEVIATION**2 / variance * (x - alpha * MEAN)
    return (alpha * x - denoised) / sigma


def exact(noise):
    """Where the probability flow takes noise: Gaussian data keep their place in the deviation."""
    return MEAN + DEVIATION * noise


@pytest.mark.parametrize(
    ("sampler", "order"), [(sample_ddim, 1), (_sample_dpm_solver, 2), (_sample_heun, 2)]
)
def test_the_error_falls_by_the_order_of_the_solver(sampler, order):
    noise, (alpha, sigma) = randn(3), V.alpha_sigma(torch.tensor(0.98))
    start = alpha * MEAN + ((alpha * DEVIATION) ** 2 + sigma**2).sqrt() * noise

    def run(steps):
        return sampler(gaussian, start, torch.linspace(0.98, 0.02, steps))

    reference = run(1280)
    errors = [(run(steps) - reference).abs().mean() for steps in (20, 40)]
    assert math.log2(errors[0] / errors[1]) > order - 0.35


def test_solvers_of_second_order_need_fewer_steps():
    noise = randn(4)

    def error(sampler, schedule):
        return (sampler(gaussian, noise, schedule) - exact(noise)).abs().mean()

    assert error(_sample_dpm_solver, _log_snr_schedule(20)) < error(
        sample_ddim, linear_schedule(100)
    )
    assert error(_sample_dpm_solver, linear_schedule(50)) < error(sample_ddim, linear_schedule(100))
    assert error(_sample_heun, linear_schedule(20)) < error(sample_ddim, linear_schedule(50))


def test_dpm_solver_is_its_algorithm_written_out():
    """arXiv 2211.01095, algorithm 2, element by element in Python's own numbers."""
    noise, schedule = randn(5), torch.linspace(0.95, 0.05, 6)

    def model(x, t):
        return 0.3 * x + per_track(t) * x.flip(-1)

    found = _sample_dpm_solver(model, noise, schedule)
    levels = [*schedule.tolist(), 0.0]
    alpha = [math.cos(t * math.pi / 2) for t in levels]
    sigma = [math.sin(t * math.pi / 2) for t in levels]
    lam = [math.log(a / s) if s > 0 else math.inf for a, s in zip(alpha, sigma, strict=True)]
    x, said = noise.double(), []
    for i in range(len(levels) - 1):
        v = model(x, torch.full((2, NUM_TRACKS), levels[i]).double())
        said.append(alpha[i] * x - sigma[i] * v)
        h = lam[i + 1] - lam[i]
        data = said[i]
        if 0 < i < len(levels) - 2:
            r = (lam[i] - lam[i - 1]) / h
            data = (1 + 1 / (2 * r)) * said[i] - 1 / (2 * r) * said[i - 1]
        ratio = sigma[i + 1] / sigma[i]
        x = ratio * x - alpha[i + 1] * (math.exp(-h) - 1) * data
    assert_close(found.double(), x, atol=1e-4, rtol=1e-4)


def test_new_noise_has_the_deviation_of_the_paper():
    """arXiv 2010.02502, eq. 16."""
    denoised, eps, new = randn(6), randn(7), randn(8)
    t, t_next, eta = torch.tensor(0.6), torch.tensor(0.5), 0.7
    (alpha, sigma), (alpha_next, sigma_next) = map(V.alpha_sigma, (t, t_next))
    deviation = eta * sigma_next / sigma * (1 - alpha**2 / alpha_next**2).sqrt()
    kept = (1 - alpha_next**2 - deviation**2).sqrt()
    expected = alpha_next * denoised + kept * eps + deviation * new
    assert_close(_renew(denoised, eps, new, t, t_next, eta), expected)


@pytest.mark.parametrize("t_next", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_with_any_share_of_new_noise_the_noise_keeps_its_power(eta, t_next):
    t, t_next = torch.tensor(1.0), torch.tensor(t_next)
    zeros, ones = torch.zeros(1), torch.ones(1)
    parts = [_renew(zeros, e, n, t, t_next, eta) for e, n in ((ones, zeros), (zeros, ones))]
    assert_close(sum(p.square() for p in parts).sqrt(), V.alpha_sigma(t_next)[1][None])


def test_eta_0_is_deterministic_and_eta_1_is_not():
    noise = randn(9)
    plain = sample_ddim(gaussian, noise, linear_schedule(8))
    assert_close(sample_ddim(gaussian, noise, linear_schedule(8), fresh=fresh, eta=0.0), plain)
    others = [
        sample_ddim(gaussian, noise, linear_schedule(8), fresh=f, eta=1.0)
        for f in (fresh, fresh, lambda d: randn(d))
    ]
    assert_close(others[0], others[1])
    assert (others[0] - others[2]).abs().max() > 0.01


def literal_repaint(model, noise, schedule, known, mask, resamplings):
    """The paper's algorithm 1, line by line."""
    draws = iter(range(10_000))
    tau = [*schedule.flip(0).tolist()]
    tau = [0.0, *tau]
    x = noise
    for i in range(len(tau) - 1, 0, -1):
        (a, b), (a_next, b_next) = (
            (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)) for t in (tau[i], tau[i - 1])
        )
        for u in range(1, resamplings + 1):
            v = model(x, torch.full((2, NUM_TRACKS), tau[i]))
            z0, e = a * x - b * v, b * x + a * v
            unknown = a_next * z0 + b_next * e
            eps = fresh(next(draws)) if i > 1 else torch.zeros(SHAPE) * fresh(next(draws))
            kept = a_next * known + b_next * eps
            x_next = mask * kept + (1 - mask) * unknown
            new = fresh(next(draws))
            if u < resamplings and i > 1:
                ratio = a / a_next
                x = ratio * x_next + math.sqrt(1 - ratio**2) * new
        x = x_next
    return x


@pytest.mark.parametrize("resamplings", [1, 2, 5])
def test_repaint_is_the_papers_algorithm_written_out(resamplings):
    known, noise, schedule = randn(10), randn(11), linear_schedule(6)
    mask = torch.zeros(2, NUM_TRACKS)
    mask[0, Track.MIXTURE] = mask[1, Track.SOURCE] = 1.0

    def model(x, t):
        return 0.3 * x + per_track(t) * x.flip(1)

    given = Given(known, mask)
    found = _sample_repaint(
        model, noise, schedule, fresh=fresh, given=given, resamplings=resamplings
    )
    expected = literal_repaint(model, noise, schedule, known, per_track(mask), resamplings)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert_close(found[0, Track.MIXTURE], known[0, Track.MIXTURE], atol=1e-6, rtol=0)


def test_the_way_back_lands_on_the_noise_process():
    """From t_next to t: the share of what was there falls, and the noise has what is missing."""
    t, t_next = torch.tensor(0.8), torch.tensor(0.4)
    (alpha, sigma), (alpha_next, sigma_next) = map(V.alpha_sigma, (t, t_next))
    signal = _back(alpha_next * torch.ones(1), torch.zeros(1), t, t_next)
    assert_close(signal, alpha[None])
    old, new = (
        _back(*pair, t, t_next)
        for pair in ((sigma_next * torch.ones(1), torch.zeros(1)), (torch.zeros(1), torch.ones(1)))
    )
    assert_close((old.square() + new.square()).sqrt(), sigma[None])


def test_no_resampling_at_all_is_refused():
    with pytest.raises(ValueError, match="resamplings"):
        _sample_repaint(gaussian, randn(1), linear_schedule(3), resamplings=0)


@pytest.mark.parametrize("sampler", OUR_SAMPLERS)
def test_frames_to_keep_come_back_and_the_others_are_the_oracles(sampler):
    """Kept frames of a noised track, beside a given track."""
    latents, other, noise = randn(12), randn(13), randn(14)
    keep = torch.zeros(2, NUM_TRACKS, 10)
    keep[:, Track.SOURCE, 3:7] = 1.0
    given = Given.track(Track.MIXTURE, latents[:, Track.MIXTURE]).keeping(keep, other, noise)
    seen = []

    def network(x, t):
        inside = given.insert(x, t)
        seen.append((float(t[0, 0]), inside[:, Track.SOURCE, :, 3:7]))
        return given.predict(x, V.towards(latents, inside, per_track(t)), t, V)

    known = given if sampler == "repaint" else None
    model = (lambda x, t: V.towards(latents, x, per_track(t))) if known else network
    found = given.insert(run(model, noise, given=known, sampler=sampler, steps=7))
    expected = torch.where(keep[:, :, None] > 0, other, latents)
    assert_close(found, expected, atol=1e-4, rtol=0)
    for t, inside in seen:
        at_level = V.add_noise(other, noise, torch.tensor(t))[:, Track.SOURCE, :, 3:7]
        assert_close(inside, at_level, atol=1e-5, rtol=0)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_log_snr_schedule_is_even_in_log_snr(objective):
    levels = _log_snr_schedule(12, objective=OBJECTIVES[objective])
    assert float(levels[0]) == 1.0 and float(levels[-1]) == pytest.approx(0.02, abs=1e-6)
    alpha, sigma = OBJECTIVES[objective].alpha_sigma(levels[1:].double())
    steps = torch.log(alpha / sigma).diff()
    assert_close(steps, steps.mean().expand_as(steps), atol=1e-3, rtol=0)
    assert_close(_log_snr_schedule(1), torch.ones(1))


@pytest.mark.parametrize("sampler", OUR_SAMPLERS)
def test_the_hook_of_every_sampler_says_the_same(sampler):
    steps = []
    run(gaussian, randn(15), steps.append, sampler=sampler, steps=4)
    assert [step["i"] for step in steps] == [0, 1, 2, 3]
    for step in steps:
        assert step.keys() == {"i", "t", "sigma", "x", "denoised"}
        assert float(step["sigma"]) == pytest.approx(math.sin(float(step["t"]) * math.pi / 2))


@pytest.mark.parametrize("sampler", OUR_SAMPLERS)
def test_what_the_hook_raises_stops_the_run(sampler):
    calls = []

    def model(x, t):
        calls.append(t)
        return gaussian(x, t).float()

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, randn(16), stop, sampler=sampler, steps=100)
    assert len(calls) <= 2


def test_samplers_by_objective():
    assert {"ddim", "repaint", "v-ddim", "dpmpp-3m-sde"} <= set(sampler_names("v"))
    assert {"ddim", "euler", "pingpong"} <= set(sampler_names("rectified_flow"))
    check_sampler("euler", "rectified_flow")
    with pytest.raises(ConfigError, match="euler"):
        check_sampler("euler", "v")
    with pytest.raises(ConfigError, match="dpm-solver"):
        check_sampler("dpm-solver", "v")


def test_noise_is_the_items_own_whatever_the_batch_and_the_length():
    long = ItemNoise([3, 4, 3], (3, 5, 64), "cpu")
    short = ItemNoise([4], (3, 5, 17), "cpu")
    assert_close(long.first()[1, ..., :17], short.first()[0], rtol=0, atol=0)
    assert_close(long.first()[0], long.first()[2], rtol=0, atol=0)
    assert_close(long.fresh(2)[1, ..., :17], short.fresh(2)[0], rtol=0, atol=0)
    draws = [long.first(), long.fresh(0), long.fresh(1)]
    for i, draw in enumerate(draws):
        assert abs(draw.std() - 1) < 0.1
        for other in draws[:i]:
            assert abs((draw * other).mean()) < 0.15


def test_candidates_have_other_seeds_and_the_first_the_users():
    seeds = [candidate_seed(7, i) for i in range(5)]
    assert seeds[0] == 7 and len(set(seeds)) == 5
    assert seeds == [candidate_seed(7, i) for i in range(5)]


@pytest.mark.parametrize(
    ("sampler", "steps"), [("k-dpm-fast", 3), ("k-heun", 2), ("k-dpm-2", 2), ("dpm-solver++", 5)]
)
def test_latents_that_diverge_name_the_sampler_and_its_steps(noise, sampler, steps):
    with pytest.raises(ValueError, match=f"{re.escape(sampler)} diverged with {steps} steps"):
        run(lambda x, t, **_: x * 1e9, noise, sampler=sampler, steps=steps)


TINY = Path(__file__).parents[2] / "model_configs" / "mge_dit_tiny.json"

# What a sampler leaves of the noise after six steps: two end at SAT's lowest level, and rk4 uses
# a prediction at level 0, where x says nothing about it.
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


def run_sat(model, sampler, given=None, negative=None, steps=6):
    """Latents (b, k, c, n) of `generate_diffusion_cond`, two items, guidance 3."""
    prompts = [{"prompt": {"source": "The sound of the bass"}}] * 2
    tensors = model.conditioner(prompts, "cpu") | {_GIVEN: given}
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
    latents = run_sat(model, sampler, Given.track(Track.MIXTURE, known))
    assert_close(latents[:, Track.MIXTURE], known, atol=LEFT.get(sampler, 1e-4), rtol=0)
    assert latents.isfinite().all()


@pytest.mark.parametrize(("objective", "sampler"), [("v", "k-heun"), ("rectified_flow", "euler")])
@pytest.mark.parametrize("negative", [None, [{"prompt": {"source": "noise"}}] * 2])
def test_what_is_asked_is_projected_once_a_run(models, objective, sampler, negative):
    model, calls = models[objective], []
    block = model.model.model.transformer.layers[0]
    hook = block.to_modulations.register_forward_hook(lambda *_: calls.append(block))
    run_sat(model, sampler, negative=negative)
    hook.remove()
    assert len(calls) == (1 if negative is None else 2)


def test_a_negative_prompt_changes_the_result(models):
    negative = [{"prompt": {"source": "noise"}}] * 2
    model = models["v"]
    assert (
        run_sat(model, "v-ddim") - run_sat(model, "v-ddim", negative=negative)
    ).abs().max() > 1e-3
