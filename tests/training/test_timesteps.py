"""Levels and patterns (paper, appendix C)."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.tracks import NUM_TRACKS
from mge_plugin.training.randomness import ItemRandomness
from mge_plugin.training.timesteps import (
    PATTERNS,
    TimestepConfig,
    draw_timesteps,
    fixed_timesteps,
    noising_levels,
    pattern_numbers,
)


def draw(size=8000, seed=0, batch_size=64, **section):
    config = parse_section(TimestepConfig, section, "training.timesteps")
    return draw_timesteps(config, ItemRandomness(seed, range(size)), batch_size)


def pattern_names(t):
    return [PATTERNS[number] for number in pattern_numbers(t)]


def test_a_pattern_is_named_after_the_given_track():
    t = torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert pattern_names(t) == ["none", "mixture", "submixture", "source"]


def test_a_quarter_of_the_items_follows_each_pattern():
    names = pattern_names(draw())
    for pattern in PATTERNS:
        assert names.count(pattern) / len(names) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("levels", ["uniform", "stratified", "quasi_random"])
def test_noised_tracks_of_an_item_share_one_uniform_level(levels):
    t = draw(levels=levels)
    level = t.max(dim=1).values
    noised = t > 0
    assert_close(t, torch.where(noised, level[:, None], 0.0))
    assert (noised.sum(dim=1) >= NUM_TRACKS - 1).all()
    assert level.min() >= 0.02
    assert level.max() <= 1.0
    assert_close(level.mean(), torch.tensor(0.51), atol=0.01, rtol=0)
    assert_close(level.var(), torch.tensor(0.98**2 / 12), atol=0.005, rtol=0)


@pytest.mark.parametrize("levels", ["stratified", "quasi_random"])
def test_spread_levels_leave_no_gap_in_a_batch(levels):
    level = draw(32, batch_size=32, t_min=0.0, levels=levels).max(dim=1).values.sort().values
    assert level.diff().max() < 2 / 32
    assert draw(32, t_min=0.0).max(dim=1).values.sort().values.diff().max() > 2 / 32


@pytest.mark.parametrize("levels", ["uniform", "stratified", "quasi_random"])
def test_an_items_levels_do_not_depend_on_its_rank(levels):
    config = TimestepConfig(levels=levels)
    whole = draw_timesteps(config, ItemRandomness(3, range(16)), 16)
    for rank in (0, 1):
        part = draw_timesteps(config, ItemRandomness(3, range(rank, 16, 2)), 16)
        assert torch.equal(part, whole[rank::2])


def test_pattern_weights_come_from_the_config():
    only = {"mixture": 1, "none": 0, "submixture": 0, "source": 0}
    assert set(pattern_names(draw(500, patterns=only))) == {"mixture"}
    never = set(pattern_names(draw(500, patterns={"none": 0})))
    assert never == set(PATTERNS) - {"none"}


def test_the_seed_decides():
    assert_close(draw(100, seed=5), draw(100, seed=5))
    assert not torch.equal(draw(100, seed=5), draw(100, seed=6))


def test_validation_goes_through_every_pattern_at_even_levels():
    t = fixed_timesteps(TimestepConfig(), range(400))
    names = pattern_names(t)
    assert {name: names.count(name) for name in PATTERNS} == dict.fromkeys(PATTERNS, 100)
    for pattern in PATTERNS:
        levels = t[[name == pattern for name in names]].max(dim=1).values
        assert_close(levels.sort().values.diff().max(), torch.tensor(0.0), atol=0.02, rtol=0)
    assert torch.equal(t[7:9], fixed_timesteps(TimestepConfig(), [7, 8]))


def test_validation_leaves_out_patterns_that_are_not_trained():
    config = parse_section(TimestepConfig, {"patterns": {"none": 0, "source": 0}}, "")
    names = pattern_names(fixed_timesteps(config, range(4)))
    assert names == ["mixture", "submixture", "mixture", "submixture"]


def test_a_given_track_may_get_a_little_noise_that_the_network_is_not_told():
    draws = ItemRandomness(0, range(1000))
    config = TimestepConfig(given_noise=0.05)
    t = draw_timesteps(config, draws, 64)
    noised = noising_levels(t, config, draws)
    assert torch.equal(noised[t > 0], t[t > 0])
    given = noised[t == 0]
    assert given.max() <= 0.05
    assert_close(given.mean(), torch.tensor(0.025), atol=0.002, rtol=0)
    assert noising_levels(t, TimestepConfig(), draws) is t


def test_where_the_source_is_absent_the_mixture_is_given_at_the_same_level():
    draws, absent = ItemRandomness(0, range(100)), torch.arange(100) % 2 == 0
    config = TimestepConfig()
    plain, given = (draw_timesteps(config, draws, 64, items) for items in (None, absent))
    assert_close(given.amax(dim=1), plain.amax(dim=1))
    assert_close(given[~absent], plain[~absent])
    assert set(pattern_names(given[absent])) == {"mixture"}
    assert set(pattern_names(fixed_timesteps(config, range(8), torch.ones(8) > 0))) == {"mixture"}
    never = parse_section(TimestepConfig, {"patterns": {"mixture": 0}}, "")
    assert "mixture" not in pattern_names(draw_timesteps(never, draws, 64, absent))


def test_a_share_of_the_levels_is_exactly_one():
    level = draw(levels="stratified", density={"at_one": 0.25}).max(dim=1).values
    assert (level == 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    below = level[level < 1]
    assert_close(below.mean(), torch.tensor(0.51), atol=0.01, rtol=0)


def test_logit_normal_levels_have_the_median_and_spread_of_the_config():
    density = {"type": "logit_normal", "location": 0.5, "scale": 0.8}
    logit = draw(t_min=0.0, density=density).max(dim=1).values.logit()
    assert_close(logit.median(), torch.tensor(0.5), atol=0.03, rtol=0)
    assert_close(logit.std(), torch.tensor(0.8), atol=0.03, rtol=0)


def test_a_pattern_may_have_a_density_of_its_own():
    t = draw(densities={"mixture": {"at_one": 1.0}})
    given_mixture = t[:, 0] == 0
    assert (t[given_mixture, 1:] == 1).all()
    assert (t[~given_mixture] < 1).all()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"t_min": 1.0}, "t_min must be"),
        ({"given_noise": -0.1}, r"given_noise must be from 0 to below 1, found -0\.1"),
        ({"levels": "unifrom"}, "did you mean 'uniform'"),
        ({"patterns": {"none": -1}}, "0 or more"),
        ({"patterns": dict.fromkeys(PATTERNS, 0)}, "not all 0"),
        ({"density": {"scale": 0}}, "scale must be above 0"),
        ({"densities": {"none": {"at_one": 2}}}, "at_one must be from 0 to 1"),
        ({"pattern": {}}, "did you mean 'patterns'"),
    ],
)
def test_bad_timestep_sections(section, message):
    with pytest.raises(ConfigError, match=message):
        parse_section(TimestepConfig, section, "training.timesteps")
