"""Mixture consistency: how far what the model made of both parts is from the mixture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mge_plugin.evaluation.run import consistency, score
from mge_plugin.evaluation.segments import Estimate
from mge_plugin.evaluation.systems import Mixture, Model, RatioMask, RoundTrip, paper_sampling
from mge_plugin.inference.denoiser import Engine
from mge_plugin.tracks import Track

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


def test_it_is_the_level_of_what_the_parts_leave_over(heard):
    source, rest = heard.truth, heard.mixture - heard.truth
    assert consistency(heard.mixture, source, rest) < -100
    assert consistency(heard.mixture, source, 0.9 * heard.mixture - source) == pytest.approx(-20)
    assert consistency(heard.mixture, 0 * source, 0 * rest) == pytest.approx(0)
    found = score(heard, Estimate(source, rest))
    assert found["mixture_consistency_db"] == consistency(heard.mixture, source, rest)
    assert "mixture_consistency_db" not in score(heard, Estimate(source))


def test_of_the_model_it_is_the_submixture_that_it_made(heard, pipeline, monkeypatch):
    """Not the residual, which is the mixture without the source, and always fits."""
    parts = [heard.mixture, heard.mixture - heard.truth, heard.truth]
    latents = torch.stack([pipeline.engine.encode(track) for track in parts])
    monkeypatch.setattr(Engine, "denoise", lambda *_: torch.stack([0 * latents, latents]))
    _, made = Model(pipeline, paper_sampling(2)).estimate([heard, heard])
    (ceiling,) = RoundTrip(pipeline).estimate([heard])
    np.testing.assert_allclose(made.audio, ceiling.audio, atol=1e-6)
    np.testing.assert_allclose(made.rest, ceiling.rest, atol=1e-6)
    assert abs(made.rest - (heard.mixture - made.audio)).max() > 0.01


def test_it_is_of_the_candidate_that_was_chosen(heard, pipeline):
    model = Model(pipeline, paper_sampling(2, candidates=3))
    for estimate, first in zip(model.estimate([heard, heard]), (0, 3), strict=True):
        rows = model.engine.kept[first : first + 3]
        pairs = [
            [model.engine.decode(row[t], 8000) for t in (Track.SOURCE, Track.SUBMIXTURE)]
            for row in rows
        ]
        (rest,) = [u for s, u in pairs if np.allclose(s, estimate.audio, atol=1e-6)]
        np.testing.assert_allclose(estimate.rest, rest, atol=1e-6)


def test_the_submixture_is_silent_where_the_mixture_is(heard, pipeline):
    mixture = heard.mixture.copy()
    mixture[:, 3000:] = 0
    (made,) = Model(pipeline, paper_sampling(2)).estimate(
        [replace(heard, given=mixture, mixture=mixture)]
    )
    assert made.rest[:, :3000].any() and not made.rest[:, 3000:].any()


@pytest.mark.parametrize("options", [{"refine": "mask"}, {"refine": "auto"}, {"gate": True}])
def test_a_source_that_is_no_longer_as_it_was_made_has_none(heard, pipeline, options):
    (made,) = Model(pipeline, paper_sampling(2, **options)).estimate([heard])
    assert made.rest is None


def test_only_what_makes_both_parts_has_it(heard, pipeline):
    for system in (Mixture(), RatioMask()):
        assert system.estimate([heard])[0].rest is None
    adding = replace(heard, segment=replace(heard.segment, task="add"))
    for system in (Model(pipeline, paper_sampling(2)), RoundTrip(pipeline)):
        assert system.estimate([adding])[0].rest is None
