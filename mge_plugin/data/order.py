"""Items by number, and SAT's batches of them.

Which song an item is of: by windows, or by weights of corpora.

Which item comes when: reproducible, different in every epoch and on every rank, resumable.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mge_plugin.config import ConfigError
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)


class SongOrder:
    """Song numbers by item number, which alone decides: no state, any worker, any order.

    Without weights, item i is of the song that has window `i % len`: all windows come up equally
    often. With weights, each run of `len` items has a share of every corpus by its weight, spread
    evenly; a corpus's own windows (in an order shuffled once by `seed`) go on from one run to the
    next, so that all come up, a heavy corpus's more often.
    """

    def __init__(
        self, windows: Sequence[np.ndarray], weights: Sequence[float] | None, seed: int
    ) -> None:
        """`windows`: for each corpus the number of windows of its songs, (songs,)."""
        first_songs = np.cumsum([0, *map(len, windows)])[:-1]
        pools = [
            np.repeat(first + np.arange(len(w)), w)
            for first, w in zip(first_songs, windows, strict=True)
        ]
        if weights is None:
            self._pools, self._counts = [np.concatenate(pools)], np.array([sum(map(len, pools))])
        else:
            rng = np.random.default_rng(seed)
            self._pools = [rng.permutation(pool) for pool in pools]
            self._counts = _counts(sum(map(len, pools)), np.array(weights, dtype=np.float64))
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


def _counts(total: int, weights: np.ndarray) -> np.ndarray:
    """Items of each corpus in a run of about `total`, one or more."""
    return np.maximum(1, np.round(total * weights / weights.sum())).astype(np.int64)


class ItemSampler(DistributedSampler):
    """Yields item numbers `epoch * len(dataset) + index`, a permutation of the indices an epoch.

    The item number alone decides what the dataset returns, so workers and ranks cannot change it.
    It is a DistributedSampler so that Lightning uses it as it is and tells it the epoch; the rank
    is asked for when iterating, since SAT builds its loaders before its processes are connected.
    """

    def __init__(self, dataset: Sized, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        self.skipped = 0  # items of the next epoch that an interrupted run has seen already

    def skip(self, items: int) -> None:
        """Leave out this rank's first `items` of the next iteration, and of no later one."""
        self.skipped = items

    def __iter__(self) -> Iterator[int]:
        rank, ranks = _rank_and_ranks()
        size = len(self.dataset)
        order = self._permutation() if self.shuffle else torch.arange(size)
        epoch = self.epoch if self.shuffle else 0
        items = (epoch * size + order).tolist()[rank : size - size % ranks : ranks]
        skipped, self.skipped = self.skipped, 0
        return iter(items[skipped:])

    def __len__(self) -> int:
        return len(self.dataset) // _rank_and_ranks()[1]

    def _permutation(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator)


def _rank_and_ranks() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


_MAX_BROKEN = 20  # songs in a row that cannot be read before giving up

Item = tuple[Tensor, dict[str, Any]]


class SongItems(Dataset):
    """Item number -> what is drawn of a song.

    An item number is `epoch * len + index` (see ItemSampler); with the seed it alone decides the
    song and all that is drawn of it, on any machine and with any number of workers. Where the song
    cannot be read another stands in.
    """

    unreadable: type[ValueError]  # what `draw` raises of a broken file; it has a `path`
    pieces: str  # what is read, in words
    stand_in: str  # what is taken instead, in words

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
        """What is drawn for an item, and the generator that goes on deciding about it."""
        for attempt, number in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.seed, item, attempt])
            try:
                return self.draw(number, rng), rng
            except self.unreadable as error:
                self._report(error)
        examples = "; ".join(list(self.broken.values())[:3])
        raise self.unreadable(
            f"{_MAX_BROKEN} {self.pieces} in a row cannot be read, e.g. {examples}"
        )

    def _candidates(self, item: int) -> Iterator[int]:
        """The number of the item's song, then of those that stand in for it if it is broken."""
        yield self.order.song(item)
        rng = np.random.default_rng([self.seed, item, _MAX_BROKEN])
        yield from np.resize(rng.permutation(len(self.songs)), _MAX_BROKEN - 1)

    def _report(self, error: Any) -> None:
        """Say once a file (and process) what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            logger.warning("left out, another %s stands in: %s", self.stand_in, error)


def order_of(
    windows: Sequence[np.ndarray], weights: Sequence[float | None], seed: int
) -> SongOrder:
    """The order of songs by windows, (songs,) for each corpus, and by weights if all have one."""
    return SongOrder(windows, None if None in weights else weights, seed)


def loss_mask(mixture_only: bool) -> list[int]:
    """The tracks that count in the loss: of a mixture alone the source is not known."""
    return [1, 1, 0] if mixture_only else [1, 1, 1]


def label_prompts(labels: Mapping[Track, Sequence[str]], template: str) -> dict[str, str]:
    """Each track's prompt, of those that have labels."""
    return {track.label: label_prompt(names, template) for track, names in labels.items() if names}


def collate(items: list[Item]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Stacked reals (batch, 3 * channels, samples or frames) and a list of metadata."""
    reals, metadata = zip(*items, strict=True)
    return torch.stack(reals), list(metadata)


def item_loader(
    dataset: Dataset,
    batch_size: int,
    seconds: float,
    seed: int,
    shuffle: bool = True,
    num_workers: int = 0,
    drop_last: bool = True,
) -> DataLoader:
    """A loader of a dataset of windows, `seconds` long, whose item numbers decide all.

    One without a batch raises ConfigError.
    """
    if drop_last and len(dataset) < batch_size:
        raise ConfigError(
            f"dataset config: {len(dataset)} windows of {seconds:.2f} s are fewer than one batch "
            f"of {batch_size}; set epoch_items or a smaller batch size"
        )
    return DataLoader(
        dataset,
        batch_size,
        sampler=ItemSampler(dataset, shuffle, seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        collate_fn=collate,
    )
