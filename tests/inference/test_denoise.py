"""A run projects what is asked once, whatever its steps."""

import pytest
import torch

from mge_plugin.inference.denoise import denoise_tracks
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.tracks import Track

CONFIG = DiTConfig(io_channels=12, embed_dim=96, depth=3, num_heads=3, global_cond_dim=8)


@pytest.mark.parametrize("track", [None, Track.MIXTURE])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_modulations_are_computed_once_a_run(track, cfg_scale):
    """Once a block, and not at all for guidance's null branch, which is known to be zeros."""
    network = MGEDiffusion(CONFIG).eval().requires_grad_(False)
    calls = []
    for i, block in enumerate(network.model.transformer.layers):
        block.to_modulations.register_forward_hook(lambda *_, i=i: calls.append(i))
    noise, embeddings = torch.randn(2, 3, 4, 10), torch.randn(2, 3, 8)
    given = None if track is None else Given.track(track, torch.randn(2, 4, 10))
    denoise_tracks(network, noise, embeddings, given, linear_schedule(9), cfg_scale)
    assert sorted(calls) == [0, 1, 2]
