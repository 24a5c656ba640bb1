"""Confidence intervals of means by resampling songs: windows of one song are not independent."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def interval(values: Sequence[float], songs: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of `values`, of which each belongs to a song.

    NaN values are left out; with one song there is no interval: NaN.
    """
    groups: dict[str, list[float]] = {}
    for value, song in zip(values, songs, strict=True):
        if np.isfinite(value):
            groups.setdefault(song, []).append(value)
    if len(groups) < 2:
        return float("nan"), float("nan")
    sums = np.array([[sum(group), len(group)] for group in groups.values()])
    rng = np.random.default_rng(seed)
    drawn = sums[rng.integers(len(sums), size=(RESAMPLES, len(sums)))].sum(axis=1)
    ends = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(ends[0]), float(ends[1])
