"""Which item comes when: on any number of ranks, in any epoch, after an interruption."""

import functools
import itertools
import operator

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, DistributedSampler

from mge_plugin.config import ConfigError
from mge_plugin.data.order import ItemSampler, item_loader
from mge_plugin.sat import batches_in_epoch, count_finished_batch, train_loader


class Numbers(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        return torch.zeros(1), {"item": int(item)}


def _sampler(size=10, shuffle=True, seed=0):
    return ItemSampler(range(size), shuffle, seed)


def _items(sampler, count, position=0):
    sampler.start(position)
    return list(itertools.islice(sampler, count))


def _loader(size=12, batch_size=2, workers=0, **options):
    options = {"seed": 0, "shuffle": True, "drop_last": True} | options
    return item_loader(Numbers(size), batch_size, num_workers=workers, **options)


def _given(loader):
    return [item["item"] for _, metadata in loader for item in metadata]


@pytest.fixture
def on_rank(monkeypatch):
    """Pretend to be one process of several, as torch.distributed tells it."""

    def pretend(rank, ranks):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)

    return pretend


def test_each_run_of_items_is_a_permutation_of_its_own():
    items = _items(_sampler(50), 150)
    runs = [items[i : i + 50] for i in (0, 50, 100)]
    for number, run in enumerate(runs):
        assert sorted(run) == list(range(50 * number, 50 * number + 50))
    orders = {tuple(item % 50 for item in run) for run in runs}
    orders.add(tuple(_items(_sampler(50, seed=1), 50)))
    assert len(orders) == 4
    assert _items(_sampler(50), 150) == items


@pytest.mark.parametrize("position", [0, 7, 50, 123])
def test_a_stream_can_begin_anywhere(position):
    assert _items(_sampler(50), 30, position) == _items(_sampler(50), 200)[position : position + 30]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_deal_the_stream_and_leave_nothing_out(on_rank, ranks):
    whole = _items(_sampler(10), 40 * ranks, 5)
    for rank in range(ranks):
        on_rank(rank, ranks)
        assert _items(_sampler(10), 40, 5) == whole[rank::ranks]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_without_shuffling_every_item_comes_once_in_order(on_rank, ranks):
    for rank in range(ranks):
        on_rank(rank, ranks)
        sampler = _sampler(11, shuffle=False)
        assert list(sampler) == list(range(rank, 11 - 11 % ranks, ranks))
        assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_are_stretches_of_one_stream(workers):
    loader = _loader(size=10, batch_size=3, workers=workers)
    epochs = [_given(loader) for _ in range(4)]
    assert [len(epoch) for epoch in epochs] == [9] * 4 == [3 * len(loader)] * 4
    assert functools.reduce(operator.iadd, epochs, []) == _items(_sampler(10), 36)


def test_an_epoch_is_rounded_up_where_configured():
    assert len(_loader(size=10, batch_size=3, drop_last=False)) == 4
    assert len(_loader(size=2, batch_size=3, drop_last=False)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_seeking_continues_with_any_batch_size(workers):
    loader = _loader(workers=workers)
    next(iter(loader))
    loader.seek(7)
    other = _loader(batch_size=4, workers=workers)
    other.seek(7)
    expected = _items(_sampler(12), 19)[7:]
    assert _given(loader) == _given(other) == expected


def test_too_few_items_for_all_ranks_are_an_error_not_an_empty_epoch(on_rank):
    with pytest.raises(ConfigError, match=r"12 items .* one batch of 13"):
        _loader(batch_size=13)
    with pytest.raises(ConfigError, match=r"12 items .* one batch of 13"):
        _loader(batch_size=13, shuffle=False)
    loader = _loader(batch_size=4)  # SAT builds it before its processes are connected
    on_rank(0, 4)
    with pytest.raises(ConfigError, match=r"12 items .* one batch of 4 on each of 4 ranks"):
        len(loader)


def test_an_epoch_of_another_training_is_its_start(on_rank):
    """An autoencoder's checkpoint has the epoch only; Lightning calls `set_epoch`."""
    loader = _loader()
    loader.set_epoch(2)
    assert _given(loader) == _items(_sampler(12), 36)[24:]


def test_lightning_keeps_a_sampler_that_is_distributed_already():
    assert isinstance(_sampler(), DistributedSampler)


class Training(pl.LightningModule):
    """Notes its items, and saves how many there were, as the wrapper does."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.items, self.seen = [], 0

    def training_step(self, batch, batch_idx):
        self.items.append((self.current_epoch, [item["item"] for item in batch[1]]))
        self.seen += len(batch[1])
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        count_finished_batch(checkpoint)
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint["seen"]
        train_loader(self._trainer).seek(self.seen, batches_in_epoch(checkpoint))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("every", [{"every_n_train_steps": 1}, {"every_n_epochs": 1}])
def test_a_resumed_run_has_the_items_of_an_uninterrupted_one(trainer, tmp_path, workers, every):
    """Inside an epoch of six batches, at its end, and with persistent workers."""
    keep = pl.callbacks.ModelCheckpoint(str(tmp_path), filename="{step}", save_top_k=-1, **every)
    whole = Training()
    run = trainer(max_steps=15, callbacks=[keep], enable_checkpointing=True)
    run.fit(whole, _loader(workers=workers))
    assert len(whole.items) == 15
    for step in (4, 6, 8, 12) if "every_n_train_steps" in every else (6, 12):
        rest = Training()
        ckpt = str(tmp_path / f"step={step}.ckpt")
        trainer(max_steps=15).fit(rest, _loader(workers=workers), ckpt_path=ckpt)
        assert rest.items == whole.items[step:]


def test_a_run_resumed_with_another_batch_size_loses_and_repeats_nothing(trainer, tmp_path):
    first, run = Training(), trainer(max_steps=7)
    run.fit(first, _loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    rest = Training()
    ckpt = str(tmp_path / "a.ckpt")
    trainer(max_steps=12).fit(rest, _loader(batch_size=3), ckpt_path=ckpt)
    items = [item for _, batch in first.items + rest.items for item in batch]
    assert items == _items(_sampler(12), 7 * 2 + 5 * 3)
