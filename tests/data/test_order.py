"""Which song an item is of: all windows equally, or corpora by weight and evenly spread."""

from collections import Counter

import numpy as np
import pytest

from mge_plugin.data.order import SongOrder

WINDOWS = [np.array([3, 1]), np.array([10, 10, 20])]  # 4 and 40 windows; songs 0-1 and 2-4


def _songs(order, items):
    return [order.song(item) for item in items]


def test_without_weights_an_item_is_its_window():
    order = SongOrder(WINDOWS, None, seed=0)
    assert len(order) == 44
    expected = [0] * 3 + [1] + [2] * 10 + [3] * 10 + [4] * 20
    assert _songs(order, range(88)) == expected * 2


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.5, 1.5)])
def test_corpora_come_up_by_weight_in_every_stretch(weights):
    order = SongOrder(WINDOWS, weights, seed=0)
    share = weights[0] / sum(weights)
    for start in (0, 7, 44, 1000):
        songs = _songs(order, range(start, start + 22))
        assert sum(song < 2 for song in songs) == pytest.approx(22 * share, abs=1.5)


def test_all_windows_of_a_corpus_come_up_equally_often():
    order = SongOrder(WINDOWS, (1, 1), seed=0)
    counts = Counter(_songs(order, range(40 * len(order))))
    assert sum(counts.values()) == 1760 and counts[0] == 3 * counts[1]
    assert counts[2] == counts[3] == counts[4] / 2 == 220
    assert counts[0] + counts[1] == 880


def test_a_light_corpus_has_one_item_a_run_at_least():
    order = SongOrder(WINDOWS, (1e-9, 1), seed=0)
    assert sum(order.song(item) < 2 for item in range(len(order))) == 1


def test_the_seed_alone_decides_the_order():
    first, same, other = (SongOrder(WINDOWS, (1, 2), seed) for seed in (1, 1, 2))
    items = range(100, 0, -1)
    assert _songs(first, items) == _songs(same, items) != _songs(other, items)
