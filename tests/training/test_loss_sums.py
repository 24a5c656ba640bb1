"""Means of the losses by pattern and track."""

import torch
from torch.testing import assert_close

from mge_plugin.training.objective import LossSums

CPU = torch.device("cpu")
T = torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.3, 0.3], [0.0, 0.9, 0.9], [0.4, 0.4, 0.0]])
LOSSES = torch.tensor([[1.0, 2, 3], [99, 4, 5], [99, 6, 9], [7, 8, 99]])
KNOWN = torch.ones(4, 3)


def test_means_are_those_of_a_patterns_items():
    assert LossSums(CPU).add(LOSSES, T, KNOWN, KNOWN).means() == {
        "none_given/mixture": 1.0,
        "none_given/submixture": 2.0,
        "none_given/source": 3.0,
        "mixture_given/submixture": 5.0,
        "mixture_given/source": 7.0,
        "source_given/mixture": 7.0,
        "source_given/submixture": 8.0,
    }


def test_batches_of_any_size_have_the_same_means():
    weights = (T > 0) * torch.tensor([1.0, 2.0, 3.0])
    whole = LossSums(CPU).add(LOSSES, T, KNOWN, weights)
    parts = LossSums(CPU)
    for part in (slice(0, 3), slice(3, 4)):
        parts.add(LOSSES[part], T[part], KNOWN[part], weights[part])
    assert parts.means() == whole.means()
    assert_close(parts.loss(), whole.loss())
    assert_close(whole.loss(), (LOSSES * weights).sum() / weights.sum())


def test_a_track_that_no_corpus_knows_has_no_mean():
    known = torch.tensor([[1.0, 1.0, 0.0]]).expand(4, 3)
    means = LossSums(CPU).add(LOSSES, T, known, known).means()
    assert not [name for name in means if name.endswith("/source")]
    assert means["mixture_given/submixture"] == 5.0


def test_nothing_counted_is_a_loss_of_0():
    sums = LossSums(CPU).add(LOSSES, torch.zeros(4, 3), KNOWN, torch.zeros(4, 3))
    assert sums.loss() == 0.0
    assert sums.means() == {}
