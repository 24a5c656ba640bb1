"""Samplers: an oracle's answer comes back, orders are what they claim, references are literal."""

import math

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.inference.sampling import (
    SCHEDULES,
    ItemNoise,
    Method,
    back,
    candidate_seed,
    check_sampler,
    linear_schedule,
    log_snr_schedule,
    renew,
    sample_ddim,
    sample_dpm_solver,
    sample_heun,
    sample_repaint,
    sampler_names,
)
from mge_plugin.models.given import Given
from mge_plugin.models.noise import OBJECTIVES, V, per_track
from mge_plugin.tracks import NUM_TRACKS, Track

SHAPE = (2, NUM_TRACKS, 4, 10)
OURS = ("ddim", "dpm-solver++", "heun", "repaint")


def randn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def fresh(draw):
    return randn(1000 + draw)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("sampler", OURS)
def test_a_sampler_finds_what_an_oracle_knows(sampler, objective, steps, schedule):
    latents, objective = randn(1), OBJECTIVES[objective]

    def oracle(x, t):
        return objective.towards(latents, x, per_track(t))

    method = Method(sampler, steps, schedule, eta=0.5, resamplings=2)
    found = method.run(oracle, randn(2), fresh, objective=objective)
    assert_close(found, latents, atol=1e-4, rtol=0)


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
    ("sampler", "order"), [(sample_ddim, 1), (sample_dpm_solver, 2), (sample_heun, 2)]
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

    assert error(sample_dpm_solver, log_snr_schedule(20)) < error(sample_ddim, linear_schedule(100))
    assert error(sample_dpm_solver, linear_schedule(50)) < error(sample_ddim, linear_schedule(100))
    assert error(sample_heun, linear_schedule(20)) < error(sample_ddim, linear_schedule(50))


def test_dpm_solver_is_its_algorithm_written_out():
    """arXiv 2211.01095, algorithm 2, element by element in Python's own numbers."""
    noise, schedule = randn(5), torch.linspace(0.95, 0.05, 6)

    def model(x, t):
        return 0.3 * x + per_track(t) * x.flip(-1)

    found = sample_dpm_solver(model, noise, schedule)
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
    assert_close(renew(denoised, eps, new, t, t_next, eta), expected)


@pytest.mark.parametrize("t_next", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_with_any_share_of_new_noise_the_noise_keeps_its_power(eta, t_next):
    t, t_next = torch.tensor(1.0), torch.tensor(t_next)
    zeros, ones = torch.zeros(1), torch.ones(1)
    parts = [renew(zeros, e, n, t, t_next, eta) for e, n in ((ones, zeros), (zeros, ones))]
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
    found = sample_repaint(
        model, noise, schedule, fresh=fresh, known=given, resamplings=resamplings
    )
    expected = literal_repaint(model, noise, schedule, known, per_track(mask), resamplings)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert_close(found[0, Track.MIXTURE], known[0, Track.MIXTURE], atol=1e-6, rtol=0)


def test_the_way_back_lands_on_the_noise_process():
    """From t_next to t: the share of what was there falls, and the noise has what is missing."""
    t, t_next = torch.tensor(0.8), torch.tensor(0.4)
    (alpha, sigma), (alpha_next, sigma_next) = map(V.alpha_sigma, (t, t_next))
    signal = back(alpha_next * torch.ones(1), torch.zeros(1), t, t_next)
    assert_close(signal, alpha[None])
    old, new = (
        back(*pair, t, t_next)
        for pair in ((sigma_next * torch.ones(1), torch.zeros(1)), (torch.zeros(1), torch.ones(1)))
    )
    assert_close((old.square() + new.square()).sqrt(), sigma[None])


def test_no_resampling_at_all_is_refused():
    with pytest.raises(ValueError, match="resamplings: expected 1 or more, found 0"):
        sample_repaint(gaussian, randn(1), linear_schedule(3), resamplings=0)


@pytest.mark.parametrize("sampler", OURS)
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

    method = Method(sampler, 7)
    known = None if method.clamps else given
    model = network if method.clamps else lambda x, t: V.towards(latents, x, per_track(t))
    found = given.insert(method.run(model, noise, fresh, known=known))
    expected = torch.where(keep[:, :, None] > 0, other, latents)
    assert_close(found, expected, atol=1e-4, rtol=0)
    for t, inside in seen:
        at_level = V.add_noise(other, noise, torch.tensor(t))[:, Track.SOURCE, :, 3:7]
        assert_close(inside, at_level, atol=1e-5, rtol=0)


def test_the_log_snr_schedule_is_even_in_log_snr():
    levels = log_snr_schedule(12)
    assert float(levels[0]) == 1.0 and float(levels[-1]) == pytest.approx(0.02, abs=1e-6)
    alpha, sigma = V.alpha_sigma(levels[1:].double())
    steps = torch.log(alpha / sigma).diff()
    assert_close(steps, steps.mean().expand_as(steps), atol=1e-3, rtol=0)
    assert_close(log_snr_schedule(1), torch.ones(1))


@pytest.mark.parametrize("sampler", OURS)
def test_the_hook_of_every_sampler_says_the_same(sampler):
    steps = []
    Method(sampler, 4).run(gaussian, randn(15), fresh, steps.append)
    assert [step["i"] for step in steps] == [0, 1, 2, 3]
    for step in steps:
        assert step.keys() == {"i", "t", "sigma", "x", "denoised"}
        assert float(step["sigma"]) == pytest.approx(math.sin(float(step["t"]) * math.pi / 2))


@pytest.mark.parametrize("sampler", OURS)
def test_what_the_hook_raises_stops_the_run(sampler):
    calls = []

    def model(x, t):
        calls.append(t)
        return gaussian(x, t).float()

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Method(sampler, 100).run(model, randn(16), fresh, stop)
    assert len(calls) <= 2


def test_samplers_by_objective():
    assert {"ddim", "repaint", "v-ddim", "dpmpp-3m-sde"} <= set(sampler_names("v"))
    assert {"ddim", "euler", "pingpong"} <= set(sampler_names("rectified_flow"))
    check_sampler("euler", "rectified_flow")
    with pytest.raises(ConfigError, match="sampler: unknown value 'euler'"):
        check_sampler("euler", "v")
    with pytest.raises(ConfigError, match="did you mean 'dpm-solver\\+\\+'"):
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
