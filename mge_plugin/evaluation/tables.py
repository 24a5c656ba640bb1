"""Means with intervals, as the paper's tables have them: a row a system, a column a label."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mge_plugin.evaluation.bootstrap import interval
from mge_plugin.evaluation.run import Scored

# the paper's table 4
ABBREVIATIONS = {
    "bass": "B",
    "drums": "D",
    "guitar": "G",
    "piano": "P",
    "vocals": "V",
    "brass": "Brs.",
    "chromatic percussion": "C.P.",
    "organ": "Org.",
    "pipe": "Pipe",
    "reed": "Reed",
    "strings": "Str.",
    "synth lead": "S.Lead",
    "synth pad": "S.Pad",
    "bowed strings": "B.str",
    "percussion": "Perc.",
}


@dataclass(frozen=True)
class Cell:
    """A mean over segments, its 95 % interval over songs, and how many there are."""

    mean: float
    low: float
    high: float
    count: int
    failed: int = 0

    def __str__(self) -> str:
        if not self.count:
            return "-"
        spread = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:.2f}{spread}"


def table(scored: Sequence[Scored], metric: str) -> dict[str, dict[str, Cell]]:
    """By system and group (what is wanted); the average over groups last."""
    systems = list(dict.fromkeys(s.system for s in scored))
    groups = list(dict.fromkeys(s.segment.group for s in scored if metric in s.scores))
    rows: dict[str, dict[str, Cell]] = {}
    for system in systems:
        own = [s for s in scored if s.system == system]
        cells = {g: cell([s for s in own if s.segment.group == g], metric) for g in groups}
        if any(c.count for c in cells.values()):
            rows[system] = cells | {"Avg.": _average(own, cells, metric)}
    return rows


def cell(scored: Sequence[Scored], metric: str) -> Cell:
    """Of the segments that have the metric; failures are counted."""
    values = [s.scores[metric] for s in scored if metric in s.scores]
    songs = [f"{s.segment.corpus}/{s.segment.song}" for s in scored if metric in s.scores]
    finite = [v for v in values if np.isfinite(v)]
    failed = sum(s.failed is not None for s in scored)
    if not finite:
        return Cell(math.nan, math.nan, math.nan, 0, failed)
    return Cell(float(np.mean(finite)), *interval(values, songs), len(finite), failed)


def abbreviated(group: str) -> str:
    """A column's head: the paper's abbreviation of each label."""
    return "+".join(ABBREVIATIONS.get(label, label) for label in group.split("+"))


def quantiles(scored: Sequence[Scored], metric: str) -> dict[str, list[float]]:
    """By group: the 5, 25, 50, 75 and 95 % quantiles."""
    values: dict[str, list[float]] = {}
    for s in scored:
        if np.isfinite(s.scores.get(metric, math.nan)):
            values.setdefault(s.segment.group, []).append(s.scores[metric])
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {group: np.quantile(v, shares).tolist() for group, v in values.items()}


def _average(own: Sequence[Scored], cells: Mapping[str, Cell], metric: str) -> Cell:
    """The mean of the groups' means, as in the paper; the interval's width is of all segments."""
    means = [c.mean for c in cells.values() if c.count]
    whole, mean = cell(own, metric), float(np.mean(means)) if means else math.nan
    low, high = (mean + end - whole.mean for end in (whole.low, whole.high))
    return Cell(mean, low, high, whole.count, whole.failed)
