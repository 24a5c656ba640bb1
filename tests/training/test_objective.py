"""The loss: over noised tracks, known tracks, and frames of the song."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.tracks import NUM_TRACKS
from mge_plugin.training.objective import (
    LossWeights,
    known_tracks,
    loss_weights,
    track_losses,
    unpadded_frames,
    weighted_mean,
)

SHAPE = (2, NUM_TRACKS, 4, 5)


def test_the_loss_ignores_given_tracks():
    prediction, target = torch.zeros(SHAPE), torch.ones(SHAPE)
    target[0, 0], target[1, 2] = 100.0, 100.0
    t = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    losses, weights = (
        track_losses(prediction, target),
        loss_weights(t, known_tracks([{}, {}]), LossWeights()),
    )
    assert_close(weights, (t > 0).float())
    assert weighted_mean(losses, weights).item() == pytest.approx(1.0)


def test_a_track_that_the_corpus_does_not_know_is_left_out():
    t = torch.full((2, NUM_TRACKS), 0.5)
    weights = loss_weights(t, known_tracks([{"loss_mask": [1, 1, 0]}, {}]), LossWeights())
    assert weights.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_tracks_count_by_their_weights():
    t = torch.tensor([[0.0, 0.5, 0.5]])
    weights = loss_weights(t, known_tracks([{}]), LossWeights(5.0, 0.5, 2.0))
    assert weights.tolist() == [[0.0, 0.5, 2.0]]
    losses = torch.tensor([[9.0, 1.0, 3.0]])
    assert weighted_mean(losses, weights).item() == pytest.approx((0.5 * 1 + 2 * 3) / 2.5)


def test_nothing_to_learn_is_a_loss_of_0_with_a_gradient():
    prediction = torch.ones(1, NUM_TRACKS, 4, 5, requires_grad=True)
    losses = track_losses(prediction, -prediction.detach())
    loss = weighted_mean(losses, loss_weights(torch.zeros(1, 3), torch.ones(1, 3), LossWeights()))
    loss.backward()
    assert loss.item() == 0.0
    assert not prediction.grad.any()


@pytest.mark.parametrize(
    "values", [{"source": -1.0}, dict.fromkeys(("mixture", "submixture", "source"), 0.0)]
)
def test_weights_that_cannot_be(values):
    with pytest.raises(ConfigError, match="loss weights must be 0 or more and not all 0"):
        LossWeights(**values)


def test_frames_after_the_songs_end_can_be_left_out():
    target = torch.zeros(SHAPE)
    target[0, :, :, 3:] = 7.0
    masks = torch.ones(2, 10, dtype=torch.bool)
    masks[0, 6:] = False
    frames = unpadded_frames([{"padding_mask": [masks[0]]}, {"padding_mask": masks[1]}], 5)
    assert frames.tolist() == [[True, True, True, False, False], [True] * 5]
    numbers = [{"padding_mask": mask.int().tolist()} for mask in masks]
    assert torch.equal(unpadded_frames(numbers, 5), frames)
    assert not track_losses(torch.zeros(SHAPE), target, frames).any()
    assert track_losses(torch.zeros(SHAPE), target)[0].min() > 0
    assert unpadded_frames([{"padding_mask": masks[0]}, {}], 5) is None
