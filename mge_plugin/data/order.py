"""Which item comes when: the same stream of items on any machine, number of ranks and workers.

SongOrder     the song of an item: by windows, or by shares of corpora
ItemSampler   item numbers without an end, dealt to ranks in turn, from any position on
SongItems     a dataset whose items depend on the seed and the item number only
ItemLoader    batches of an endless stream; an epoch is a number of them, nothing more
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from mge_plugin.config import ConfigError
from mge_plugin.devices import number_of_ranks

_logger = logging.getLogger(__name__)

_MAX_BROKEN = 20  # songs in a row that cannot be read before giving up

Item = tuple[Tensor, dict[str, Any]]


class SongOrder:
    """Song numbers by item number, without state: any worker may ask for any item.

    Without shares, item i is of the song that has window `i % len`: all windows come up equally
    often. With shares, each run of `len` items has a share of every corpus, spread evenly; the
    windows of a corpus (in an order shuffled once by `seed`) continue from one run to the next, so
    that all come up, those of a corpus with a large share more often.
    """

    def __init__(
        self, windows: Sequence[np.ndarray], shares: Sequence[float] | None, seed: int
    ) -> None:
        """`windows`: for each corpus the number of windows of its songs, (songs,)."""
        first_songs = np.cumsum([0, *map(len, windows)])[:-1]
        pools = [
            np.repeat(first + np.arange(len(w)), w)
            for first, w in zip(first_songs, windows, strict=True)
        ]
        total = sum(map(len, pools))
        if shares is None:
            self._pools, self._counts = [np.concatenate(pools)], np.array([total])
        else:
            rng = np.random.default_rng(seed)
            self._pools = [rng.permutation(pool) for pool in pools]
            share = np.array(shares, dtype=np.float64) / np.sum(shares)
            self._counts = np.maximum(1, np.round(total * share)).astype(np.int64)
        places = [(np.arange(count) + 0.5) / count for count in self._counts]
        order = np.argsort(np.concatenate(places), kind="stable")
        self._corpus = np.repeat(np.arange(len(places)), self._counts)[order]
        self._rank = np.concatenate([np.arange(count) for count in self._counts])[order]

    def __len__(self) -> int:
        return len(self._corpus)

    def song(self, item: int) -> int:
        """The number of the item's song, counted through all corpora."""
        run, slot = divmod(item, len(self))
        corpus = self._corpus[slot]
        pool = self._pools[corpus]
        return int(pool[(run * self._counts[corpus] + self._rank[slot]) % len(pool)])


class ItemSampler(DistributedSampler):
    """Yields item numbers `run * len(dataset) + index`; each run permutes all indices.

    The item number alone decides what the dataset returns. With `shuffle` the numbers do not end,
    and begin at `start`; without, they are the indices in order, once. It is a DistributedSampler
    so that Lightning keeps it.
    """

    def __init__(self, dataset: Any, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        self._position, self._size = 0, len(dataset)

    def start(self, position: int) -> None:
        """Begin after `position` items of all ranks together."""
        self._position = position

    def __len__(self) -> int:
        return self._size // rank_and_ranks()[1]

    def __iter__(self) -> Iterator[int]:
        rank, ranks = rank_and_ranks()  # SAT builds its loaders before its processes are connected
        size = self._size
        if not self.shuffle:
            yield from range(rank, size - size % ranks, ranks)
            return
        run, position = -1, self._position + rank
        while True:
            if position // size != run:
                run = position // size
                order = self._permutation(run)
            yield run * size + int(order[position % size])
            position += ranks

    def _permutation(self, run: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + run)
        return torch.randperm(self._size, generator=generator)


def rank_and_ranks() -> tuple[int, int]:
    """This process's number among the ranks of the run, and how many there are."""
    ranks = number_of_ranks()
    return (dist.get_rank() if ranks > 1 else 0), ranks


class SongItems(Dataset):
    """Item number -> what is drawn of a song.

    With the seed, an item number (see ItemSampler) decides the song and everything that is drawn
    of it, on any machine and with any number of workers. Another song replaces one that cannot be
    read.
    """

    unreadable: type[ValueError]  # what `draw` raises for a broken file; it has a `path`

    def __init__(self, songs: Sequence[Any], order: SongOrder, seed: int, size: int | None) -> None:
        self.songs = songs
        self.order = order
        self.seed = seed
        self.size = size or len(order)
        self.broken: dict[Path | None, str] = {}  # path -> what is wrong with it

    def __len__(self) -> int:
        return self.size

    def draw(self, number: int, rng: np.random.Generator) -> Any:
        """Read something of the song with this number."""
        raise NotImplementedError

    def drawn(self, item: int) -> tuple[Any, np.random.Generator]:
        """What is drawn for an item, and the generator for further choices of this item."""
        for attempt, number in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.seed, item, attempt])
            try:
                return self.draw(number, rng), rng
            except self.unreadable as error:
                self._report(error)
        examples = "; ".join(list(self.broken.values())[:3])
        raise self.unreadable(f"{_MAX_BROKEN} songs in a row cannot be read, e.g. {examples}")

    def _candidates(self, item: int) -> Iterator[int]:
        """The number of the item's song, then of those that replace it if it is broken."""
        yield self.order.song(item)
        rng = np.random.default_rng([self.seed, item, _MAX_BROKEN])
        yield from np.resize(rng.permutation(len(self.songs)), _MAX_BROKEN - 1)

    def _report(self, error: Any) -> None:
        """Log, once per file and process, what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            _logger.warning("not used, another song replaces it: %s", error)


class ItemLoader(DataLoader):
    """Batches of an endless stream of items; an epoch is the next `len(loader)` of them.

    `position` counts the items that all ranks together have been given since the run began: it is
    what a checkpoint has to save. The stream, its workers and what they have prefetched continue
    from one epoch to the next.
    """

    def __init__(self, dataset: Dataset, batch_size: int, items: int, **options: Any) -> None:
        """`items`: of an epoch, of all ranks together."""
        super().__init__(dataset, batch_size, collate_fn=_collate, **options)
        is_stream = isinstance(dataset, IterableDataset)
        self._stream: Any = dataset if is_stream else self.sampler  # has `start(position)`
        self._items, self._size = items, batch_size
        self._batches: Iterator | None = None
        self._done = 0
        self.position = 0
        len(self)

    def __len__(self) -> int:
        """Batches per rank and epoch; none raises ConfigError."""
        ranks = number_of_ranks()
        share = self._size * ranks
        if batches := self._items // share if self.drop_last else -(-self._items // share):
            return batches
        raise _too_few(self._items, self._size, ranks)

    def seek(self, position: int, batches: int = 0) -> None:
        """Continue after `position` items of all ranks together, `batches` into an epoch."""
        self.position, self._done = position, batches
        self._batches = self._iterator = None  # workers are started again

    def set_epoch(self, epoch: int) -> None:
        """Continue at the start of an `epoch`, if nothing has called `seek`.

        A checkpoint of the three-track model has the exact position; those of other models, such
        as an autoencoder's, have the epoch only.
        """
        if self.position == 0 and epoch > 0:
            self.seek(epoch * len(self) * self._size * number_of_ranks())

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:  # type: ignore[override]
        count, self._done = len(self) - self._done, 0
        return self._take(count)

    def _take(self, count: int) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        for _ in range(count):
            if self._batches is None:
                self._stream.start(self.position)
                self._batches = super().__iter__()
            batch = next(self._batches)
            self.position += self._size * number_of_ranks()
            yield batch


def _too_few(items: int, batch_size: int, ranks: int = 1) -> ConfigError:
    which = f"one batch of {batch_size}" + (f" on each of {ranks} ranks" if ranks > 1 else "")
    return ConfigError(
        f"dataset config: {items} items per epoch are fewer than {which}; set epoch_items or a "
        "smaller batch size"
    )


def item_loader(
    dataset: SongItems, batch_size: int, seed: int, shuffle: bool, num_workers: int, drop_last: bool
) -> DataLoader:
    """A loader of a dataset by item number: endless, or without `shuffle` every item once."""
    sampler = ItemSampler(dataset, shuffle, seed)
    options = worker_options(num_workers) | {"drop_last": drop_last, "sampler": sampler}
    if shuffle:
        return ItemLoader(dataset, batch_size, len(dataset), **options)
    if drop_last and len(dataset) < batch_size:
        raise _too_few(len(dataset), batch_size)
    return DataLoader(dataset, batch_size, collate_fn=_collate, **options)


def worker_options(num_workers: int) -> dict[str, Any]:
    """Options of a DataLoader whose workers live as long as it does."""
    pinned = torch.cuda.is_available()
    workers = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    return workers | {"pin_memory": pinned}


def _collate(items: list[Item]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Stacked reals (batch, 3 * channels, samples or frames) and a list of metadata."""
    reals, metadata = zip(*items, strict=True)
    return torch.stack(reals), list(metadata)
