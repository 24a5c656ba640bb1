"""Draws that belong to an item, wherever it is trained on."""

import torch

from mge_plugin.training.randomness import _PURPOSES, ItemRandomness, item_numbers

CPU = torch.device("cpu")


def test_an_items_draws_do_not_depend_on_its_neighbours():
    whole = ItemRandomness(7, [3, 4, 5]).normal("noise", (2, 4))
    assert torch.equal(ItemRandomness(7, [5]).normal("noise", (2, 4))[0], whole[2])


def test_seeds_items_and_purposes_have_streams_of_their_own():
    streams = {
        ItemRandomness(seed, [number]).uniform(purpose).item()
        for seed in (0, 1, 2**31)
        for number in (0, 1, 2, 10**9)
        for purpose in _PURPOSES
    }
    assert len(streams) == 3 * 4 * len(_PURPOSES)


def test_noise_is_gaussian():
    noise = ItemRandomness(0, range(100)).normal("noise", (3, 50))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03


def test_two_ranks_number_their_items_as_one_with_both():
    ranks = [item_numbers(24, 4, rank, 2) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == item_numbers(24, 8, 0, 1)
    assert ranks[0] == [24, 26, 28, 30]
