"""Which item comes when, on any number of ranks and after an interruption."""

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from mge_plugin.data.order import ItemSampler


def _sampler(size=10, shuffle=True, seed=0, epoch=0):
    sampler = ItemSampler(range(size), shuffle, seed)
    sampler.set_epoch(epoch)
    return sampler


@pytest.fixture
def on_rank(monkeypatch):
    """Pretend to be one process of several, as torch.distributed tells it."""

    def pretend(rank, ranks):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)

    return pretend


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_is_every_item_of_its_own_once_in_another_order(epoch):
    items = list(_sampler(epoch=epoch))
    assert sorted(items) == list(range(10 * epoch, 10 * epoch + 10))
    assert items != sorted(items)


def test_epochs_and_seeds_differ_and_each_comes_again():
    orders = {
        (seed, epoch): tuple(item % 50 for item in _sampler(50, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)
    assert tuple(item % 50 for item in _sampler(50, seed=2, epoch=1)) == orders[2, 1]


def test_without_shuffling_every_epoch_is_the_same_items_in_order():
    for epoch in (0, 1, 5):
        assert list(_sampler(shuffle=False, epoch=epoch)) == list(range(10))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "ranks"), [(10, 2), (12, 3), (11, 2), (11, 3)])
def test_ranks_share_an_epoch_without_overlap_and_equally(on_rank, size, ranks, shuffle):
    shares = []
    for rank in range(ranks):
        on_rank(rank, ranks)
        sampler = _sampler(size, shuffle, epoch=2)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == size // ranks
    together = [item for share in shares for item in share]
    assert len(set(together)) == len(together) == size - size % ranks
    assert {item // size for item in together} == {2 if shuffle else 0}


def test_the_rank_is_asked_for_when_iterating_not_when_built(on_rank):
    sampler = _sampler(shuffle=False)
    assert len(sampler) == 10
    on_rank(1, 2)
    assert len(sampler) == 5 and list(sampler) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("ranks", [1, 2])
def test_skipping_goes_on_with_the_next_item_once(on_rank, ranks):
    on_rank(ranks - 1, ranks)
    sampler = _sampler(20, epoch=3)
    whole = list(sampler)
    sampler.skip(6)
    assert list(sampler) == whole[6:]
    assert list(sampler) == whole
    sampler.skip(len(whole))
    assert list(sampler) == []


def test_a_loader_goes_on_with_the_next_batch():
    sampler = _sampler(20, epoch=1)
    loader = DataLoader(range(100), 4, sampler=sampler)
    batches = [batch.tolist() for batch in loader]
    sampler.skip(2 * 4)
    assert [batch.tolist() for batch in loader] == batches[2:]


def test_lightning_keeps_a_sampler_that_is_distributed_already():
    assert isinstance(_sampler(), DistributedSampler)
