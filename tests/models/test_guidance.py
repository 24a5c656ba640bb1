"""Classifier-free guidance and the network call around it."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance, along
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.models.noise import V
from mge_plugin.tracks import NUM_TRACKS, Track


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = DiTConfig(io_channels=12, embed_dim=96, depth=2, num_heads=3, global_cond_dim=8)
    network = MGEDiffusion(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)  # also what starts at zero
    return network


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 12, 10, generator=generator)
    embeddings = torch.randn(4, NUM_TRACKS, 8, generator=generator)
    return x, torch.rand(4, NUM_TRACKS, generator=generator), embeddings


def test_scale_one_is_the_conditioned_prediction_and_zero_the_null_one():
    cond, null = torch.randn(2, 4, 3, 6, 5).unbind()
    assert_close(Guidance(1.0).apply(cond, null), cond)
    assert_close(Guidance(0.0).apply(cond, null), null)


def test_each_track_may_have_its_own_scale():
    cond, null = torch.randn(2, 4, 3, 6, 5).unbind()
    guided = Guidance((1.0, 0.0, 3.0)).apply(cond, null)
    assert_close(guided[:, 0], cond[:, 0])
    assert_close(guided[:, 1], null[:, 1])
    assert_close(guided[:, 2], Guidance(3.0).apply(cond, null)[:, 2])


def test_apg_moves_at_right_angles_to_what_is_denoised_track_by_track():
    cond, null, denoised = torch.randn(3, 4, 3, 6, 5).unbind()
    move = Guidance(3.0, apg_scale=1.0).apply(cond, null, denoised) - cond
    assert_close((move * denoised).sum(dim=(2, 3)), torch.zeros(4, 3), atol=1e-4, rtol=0)
    assert_close(move, 2 * (cond - null - along(cond - null, denoised)))
    half = Guidance(3.0, apg_scale=0.5).apply(cond, null, denoised) - cond
    assert_close(half, (move + 2 * (cond - null)) / 2)


def test_apg_of_silence_is_plain_guidance():
    cond, null = torch.randn(2, 4, 3, 6, 5).unbind()
    plain = Guidance(3.0).apply(cond, null)
    assert_close(Guidance(3.0, apg_scale=1.0).apply(cond, null, torch.zeros_like(cond)), plain)


def test_full_rescale_has_the_conditioned_deviation():
    cond, null = torch.randn(2, 4, 3, 6, 5).unbind()
    rescaled = Guidance(4.0, cfg_rescale=1.0).apply(cond, null)
    assert_close(rescaled.std(dim=(1, 2)), cond.std(dim=(1, 2)))


def test_rescaling_a_constant_prediction_is_finite():
    zeros = torch.zeros(1, 3, 6, 5)
    assert Guidance(4.0, cfg_rescale=0.7).apply(zeros, zeros).isfinite().all()


@pytest.mark.parametrize(
    ("t", "scale", "interval", "expected"),
    [
        (0.5, 2.0, (0, 1), True),
        (0.5, 1.0, (0, 1), False),
        (0.5, 0.0, (0, 1), True),
        (0.5, 2.0, (0.8, 1), False),  # sigma is 0.71
        (0.7, 2.0, (0.8, 1), True),  # sigma is 0.89
    ],
)
def test_guidance_acts_inside_its_interval(t, scale, interval, expected):
    sigma = V.alpha_sigma(torch.full((2, 3), t))[1]
    assert Guidance(scale, interval).acts(sigma) is expected


def test_guidance_changes_the_result_and_follows_the_formula(network, inputs):
    x, t, embeddings = inputs
    cond = network(x, t, global_cond=embeddings)
    null = network(x, t, global_cond=torch.zeros_like(embeddings))
    guided = network(x, t, global_cond=embeddings, cfg_scale=7.0)
    assert (guided - cond).abs().max() > 1e-3
    assert_close(guided, null + 7.0 * (cond - null), atol=1e-4, rtol=1e-4)


def test_a_negative_prompt_takes_the_place_of_nothing(network, inputs):
    x, t, embeddings = inputs
    negative = embeddings.flip(0)
    modulations = network.modulate(negative)
    guided = network(x, t, embeddings, negative_modulations=modulations, cfg_scale=3.0)
    away = network(x, t, global_cond=negative)
    expected = away + 3.0 * (network(x, t, global_cond=embeddings) - away)
    assert_close(guided, expected, atol=1e-4, rtol=1e-4)


def test_what_guidance_moved_away_from_can_be_asked_for(network, inputs):
    """SAT's CFG++ sampler takes its noise from it, so a given track is led there too."""
    x, t, embeddings = inputs
    given = Given.track(Track.MIXTURE, torch.randn(4, 4, 10))
    options = {"given": given, "cfg_scale": 3.0}
    guided, info = network(x, t, embeddings, return_info=True, **options)
    assert_close(guided, network(x, t, embeddings, **options))
    alone = network(x, t, torch.zeros_like(embeddings), given=given)
    assert_close(info["uncond_output"], alone, atol=1e-5, rtol=1e-4)


def test_a_permuted_batch_gives_the_permuted_result(network, inputs):
    order = torch.tensor([2, 0, 3, 1])
    x, t, embeddings = inputs
    v = network(x, t, global_cond=embeddings, cfg_scale=2.0)
    permuted = network(x[order], t[order], global_cond=embeddings[order], cfg_scale=2.0)
    assert_close(permuted, v[order], atol=1e-5, rtol=1e-4)


def test_modulations_do_not_depend_on_the_timestep(network, inputs):
    x, t, embeddings = inputs
    modulations = network.modulate(embeddings)
    for level in (0.02, 0.5, 1.0):
        t = torch.full_like(t, level)
        once = network(x, t, modulations=modulations)
        assert_close(once, network(x, t, global_cond=embeddings))


def test_one_level_for_all_tracks_is_the_same_as_three_equal_ones(network, inputs):
    x, _, embeddings = inputs
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    shared = network(x, t, global_cond=embeddings)
    assert_close(shared, network(x, t[:, None].repeat(1, 3), global_cond=embeddings))


def test_tracks_are_modulated_by_their_own_embedding_alone(network, inputs):
    _, _, embeddings = inputs
    before = network.modulate(embeddings).unflatten(-1, (6, NUM_TRACKS, -1))
    embeddings[:, Track.SOURCE] += 1.0
    after = network.modulate(embeddings).unflatten(-1, (6, NUM_TRACKS, -1))
    changed = (before - after).abs().amax(dim=(0, 1, 2, 4))
    assert changed[Track.MIXTURE] == changed[Track.SUBMIXTURE] == 0
    assert changed[Track.SOURCE] > 0


def test_what_is_in_a_given_tracks_place_does_not_matter(network, inputs):
    x, t, embeddings = inputs
    known = torch.randn(4, 4, 10)
    given = Given.track(Track.MIXTURE, known)
    other = torch.cat([torch.randn(4, 4, 10), x[:, 4:]], dim=1)
    v = network(x, t, global_cond=embeddings, given=given)
    assert_close(network(other, t, global_cond=embeddings, given=given)[:, 4:], v[:, 4:])


def test_conditioning_that_the_network_has_no_place_for_is_refused(network, inputs):
    x, t, embeddings = inputs
    network(x, t, global_cond=embeddings, cross_attn_cond=None, batch_cfg=True, rescale_cfg=True)
    with pytest.raises(TypeError, match="does not support cross_attn_cond"):
        network(x, t, global_cond=embeddings, cross_attn_cond=torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(network, inputs, dtype):
    x, t, embeddings = inputs
    exact = network(x, t, global_cond=embeddings, cfg_scale=2.0)
    rough = network.to(dtype)(x, t, global_cond=embeddings, cfg_scale=2.0)
    assert rough.dtype == torch.float32  # of x, whatever the network computes in
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
