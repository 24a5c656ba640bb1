"""Levels and patterns (paper, appendix C), and the loss over noised tracks."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.objective import masked_v_loss, track_losses
from mge_plugin.training.timesteps import TimestepConfig, draw_timesteps, pattern_name


def draw(size=20000, seed=0, **patterns):
    config = parse_section(TimestepConfig, {"patterns": patterns}, "training.timesteps")
    return draw_timesteps(size, config, torch.Generator().manual_seed(seed))


def test_a_quarter_of_the_items_follows_each_pattern():
    names = [pattern_name(levels) for levels in draw(8000)]
    for pattern in ("none", *(track.label for track in Track)):
        assert names.count(pattern) / len(names) == pytest.approx(0.25, abs=0.02)


def test_noised_tracks_of_an_item_share_one_uniform_level():
    t = draw()
    level = t.max(dim=1).values
    noised = t > 0
    assert_close(t, torch.where(noised, level[:, None], 0.0))
    assert (noised.sum(dim=1) >= NUM_TRACKS - 1).all()
    assert level.min() >= 0.02
    assert level.max() <= 1.0
    assert_close(level.mean(), torch.tensor(0.51), atol=0.01, rtol=0)
    assert_close(level.var(), torch.tensor(0.98**2 / 12), atol=0.005, rtol=0)


def test_pattern_weights_come_from_the_config():
    names = {
        pattern_name(levels) for levels in draw(500, mixture=1, none=0, submixture=0, source=0)
    }
    assert names == {"mixture"}


def test_the_same_generator_state_gives_the_same_levels():
    assert_close(draw(100, seed=5), draw(100, seed=5))
    assert not torch.equal(draw(100, seed=5), draw(100, seed=6))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"t_min": 1.0}, "t_min must be"),
        ({"patterns": {"none": -1}}, "0 or more"),
        ({"patterns": dict.fromkeys(["none", "mixture", "submixture", "source"], 0)}, "not all 0"),
        ({"pattern": {}}, "did you mean 'patterns'"),
    ],
)
def test_bad_timestep_sections(section, message):
    with pytest.raises(ConfigError, match=message):
        parse_section(TimestepConfig, section, "training.timesteps")


def test_the_loss_ignores_given_tracks():
    v, target = torch.zeros(2, NUM_TRACKS, 4, 5), torch.ones(2, NUM_TRACKS, 4, 5)
    target[0, 0], target[1, 2] = 100.0, 100.0
    t = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    assert masked_v_loss(v, target, t).item() == pytest.approx(1.0)
    assert_close(track_losses(v, target, t), (t > 0).float())


def test_the_loss_is_finite_when_every_track_is_given():
    v = torch.ones(1, NUM_TRACKS, 4, 5)
    assert masked_v_loss(v, -v, torch.zeros(1, NUM_TRACKS)).item() == 0.0


@pytest.mark.parametrize("level", [1e-6, 1.0])
def test_the_target_is_finite_at_both_ends(level):
    from mge_plugin.noise import velocity

    latents, noise = torch.randn(2, 1, NUM_TRACKS, 4, 5).unbind()
    assert velocity(latents, noise, torch.full((1, NUM_TRACKS), level)).isfinite().all()
