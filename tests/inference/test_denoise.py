"""A run projects what is asked once, whatever its steps and whoever samples."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.inference.denoiser import denoise_tracks
from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.tracks import Track

CONFIG = DiTConfig(io_channels=12, embed_dim=96, depth=3, num_heads=3, global_cond_dim=8)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = MGEDiffusion(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)  # also what starts at zero
    return network


@pytest.fixture
def projections(network):
    """The number of a block whenever its scales, shifts and gates are computed."""
    calls = []
    for i, block in enumerate(network.model.transformer.layers):
        block.to_modulations.register_forward_hook(lambda *_, i=i: calls.append(i))
    return calls


@pytest.mark.parametrize("track", [None, Track.MIXTURE])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_modulations_are_computed_once_a_run(network, projections, track, cfg_scale):
    """Once a block, and not at all for guidance's null branch, which is known to be zeros."""
    noise, embeddings = torch.randn(2, 3, 4, 10), torch.randn(2, 3, 8)
    given = None if track is None else Given.track(track, torch.randn(2, 4, 10))
    denoise_tracks(network, noise, embeddings, given, linear_schedule(9), cfg_scale)
    assert sorted(projections) == [0, 1, 2]


def test_a_negative_prompt_is_projected_once_too(network, projections):
    noise, (embeddings, negative) = torch.randn(2, 3, 4, 10), torch.randn(2, 2, 3, 8)
    run = (network, noise, embeddings, None, linear_schedule(9), 2.0)
    away = denoise_tracks(*run, negative=negative)
    assert sorted(projections) == [0, 0, 1, 1, 2, 2]
    assert (away - denoise_tracks(*run)).abs().max() > 1e-3
    assert_close(denoise_tracks(*run, negative=torch.zeros(2, 3, 8)), denoise_tracks(*run))
