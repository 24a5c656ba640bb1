"""The noise process (paper, eqs. 1, 2, 9 and 10)."""

import math

import torch
from torch.testing import assert_close

from mge_plugin.noise import add_noise, alpha_sigma, denoise, velocity
from mge_plugin.tracks import NUM_TRACKS, pack, unpack


def test_alpha_and_sigma_are_cos_and_sin():
    alpha, sigma = alpha_sigma(torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    assert_close(alpha, torch.tensor([1.0, math.cos(math.pi / 6), math.sqrt(0.5), 0.0]))
    assert_close(alpha**2 + sigma**2, torch.ones(4))


def test_levels_are_float32_whatever_they_come_in():
    alpha, sigma = alpha_sigma(torch.tensor([0.02], dtype=torch.bfloat16))
    assert alpha.dtype == sigma.dtype == torch.float32


def test_a_clean_track_stays_as_it_is_and_a_noised_one_ends_as_noise():
    latents, noise = torch.randn(2, 2, NUM_TRACKS, 4, 5).unbind()
    t = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 0.7]])
    x = add_noise(latents, noise, t)
    assert_close(x[0, 0], latents[0, 0])
    assert_close(x[0, 1], noise[0, 1], atol=1e-6, rtol=0)
    assert_close(x[1, 1], latents[1, 1])


def test_v_gives_back_the_latents():
    latents, noise = torch.randn(2, 2, NUM_TRACKS, 4, 5).unbind()
    t = torch.tensor([[0.0, 0.4, 1.0], [0.02, 0.5, 0.9]])
    x, v = add_noise(latents, noise, t), velocity(latents, noise, t)
    assert_close(denoise(x, v, t), latents, atol=1e-6, rtol=0)


def test_packing_stacks_tracks_on_channels():
    tracks = torch.arange(2 * NUM_TRACKS * 4 * 5).reshape(2, NUM_TRACKS, 4, 5)
    packed = pack(tracks)
    assert packed.shape == (2, 12, 5)
    assert_close(packed[:, 4:8], tracks[:, 1])
    assert_close(unpack(packed), tracks)
