"""Which song an item is of: by windows, or by weights of corpora."""

from collections.abc import Sequence

import numpy as np


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
