"""One page, a CSV and a JSON of an evaluation.

Means with intervals, as the paper's tables have them: a row a system, a column a label.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mge_plugin.data.audio import read_audio
from mge_plugin.evaluation.metrics import interval
from mge_plugin.evaluation.run import BETTER, REFERENCE, Scored, audio_path
from mge_plugin.files import write_file
from mge_plugin.report import Clip, Page, Section, Table, write_page

# the paper's table 4
_ABBREVIATIONS = {
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


def _abbreviated(group: str) -> str:
    """A column's head: the paper's abbreviation of each label."""
    return "+".join(_ABBREVIATIONS.get(label, label) for label in group.split("+"))


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


_EXAMPLES = 3  # best and worst that are heard

_TITLES = {
    "log_mel_l1": "Log-Mel L1",
    "spectral_distance": "Multi-resolution spectral distance",
    "si_sdr": "SI-SDR, dB",
    "sdr": "SDR, dB",
    "clap_score": "CLAP score",
    "mixture_consistency_db": "Mixture consistency: mixture - (submixture + source), dB",
    "silence_error_db": "Silence error: level of what is absent against the mixture, dB",
    "level_db": "Level, dB (extract and add: against the mixture)",
}
_SETTINGS = (
    "Log-Mel L1: 16 kHz mono, window 1024, hop 160, 64 mel bands from 0 to 8 kHz, power, natural "
    "logarithm with a floor of 1e-5 on both sides; the paper does not state its settings."
)


def write_report(
    out: Path,
    scored: Sequence[Scored],
    fad: Mapping[str, Mapping[str, Mapping[str, Any]]],
    facts: Mapping[str, str],
) -> Path:
    """Write index.html, scores.csv and summary.json in `out`; return the page's path."""
    metrics = [m for m in _TITLES if any(m in s.scores for s in scored)]
    tables = {metric: table(scored, metric) for metric in metrics}
    write_file(out / "scores.csv", _csv(scored).encode())
    write_file(out / "summary.json", json.dumps(_summary(tables, fad, facts), indent=1).encode())
    failed = [s for s in scored if s.failed is not None]
    sections = [
        Section(_title(metric, facts), _better(metric), tables=[_table(rows)])
        for metric, rows in tables.items()
    ]
    if fad:
        sections.insert(0, _fad_section(fad))
    sections += [_distribution(scored), *_examples(out, scored), *_failures(failed)]
    notice = f"{len(failed)} estimates are missing: see the end of the page." if failed else None
    page = Page("Evaluation", _SETTINGS, notice, [s for s in sections if s is not None], facts)
    return write_page(page, out / "index.html")


def _title(metric: str, facts: Mapping[str, str]) -> str:
    """With what a metric was measured by, if the facts tell."""
    title = _TITLES[metric]
    return f"{title}, {facts[title]}" if title in facts else title


def _better(metric: str) -> str:
    side = BETTER.get(metric)
    mean = "Mean over segments, in brackets the 95 % interval by bootstrap over songs."
    return f"{mean} {side.capitalize()} is better." if side else mean


def _table(rows: Mapping[str, Mapping[str, Cell]]) -> Table:
    groups = list(dict.fromkeys(g for cells in rows.values() for g in cells))
    counts = {g: max(cells[g].count for cells in rows.values()) for g in groups}
    columns = ["", *(f"{_abbreviated(g)} ({counts[g]})" for g in groups)]
    return Table(columns, [[system, *(str(c[g]) for g in groups)] for system, c in rows.items()])


def _fad_section(fad: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Section:
    first = next(iter(next(iter(fad.values())).values()))
    text = (
        f"Embedding {first['embedding']}, window {first['window_seconds']} s, weights "
        f"{first['weights']}, dimension {first['dimension']}. In brackets: embeddings and rank of "
        "the covariance, of the estimates and of the references. Lower is better."
    )
    groups = list(dict.fromkeys(g for cells in fad.values() for g in cells))
    rows = [[system, *(_fad_cell(cells.get(g)) for g in groups)] for system, cells in fad.items()]
    return Section("FAD", text, tables=[Table(["", *map(_abbreviated, groups)], rows)])


def _fad_cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['fad']:.2f} (N {found['items']}, rank {found['rank']})"


def _distribution(scored: Sequence[Scored]) -> Section | None:
    """Quantiles of the model's Log-Mel L1."""
    rows = quantiles([s for s in scored if s.system == "model"], "log_mel_l1")
    if not rows:
        return None
    columns = ["", "5 %", "25 %", "median", "75 %", "95 %"]
    cells = [[group, *(f"{v:.2f}" for v in values)] for group, values in rows.items()]
    text = "Quantiles over segments."
    return Section("Log-Mel L1 of the model: distribution", text, tables=[Table(columns, cells)])


def _examples(out: Path, scored: Sequence[Scored]) -> list[Section]:
    """The best and the worst of the model, to be heard beside the truth."""
    own = [s for s in scored if s.system == "model" and "log_mel_l1" in s.scores]
    own.sort(key=lambda s: s.scores["log_mel_l1"])
    if not own:
        own = [s for s in scored if s.system == "model" and s.failed is None][:_EXAMPLES]
        return [_listen(out, "Examples", own)] if own else []
    return [_listen(out, "Best", own[:_EXAMPLES]), _listen(out, "Worst", own[-_EXAMPLES:][::-1])]


def _listen(out: Path, title: str, chosen: Sequence[Scored]) -> Section:
    clips = []
    for s in chosen:
        figure = s.scores.get("log_mel_l1")
        caption = s.segment.id + ("" if figure is None else f", Log-Mel L1 {figure:.2f}")
        for name in ("model", REFERENCE):
            path = audio_path(out, name, s.segment)
            if path.is_file():
                clips.append(Clip(f"{s.segment.group}: {name}", caption, *read_audio(path)))
    return Section(title, "", clips)


def _failures(failed: Sequence[Scored]) -> list[Section]:
    if not failed:
        return []
    rows = [[s.system, s.segment.id, s.failed] for s in failed]
    return [Section("Missing estimates", "", tables=[Table(["system", "segment", "why"], rows)])]


def _csv(scored: Sequence[Scored]) -> str:
    metrics = list(dict.fromkeys(m for s in scored for m in s.scores))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["system", "segment", "corpus", "song", "wanted", "absent", "failed", *metrics])
    for s in scored:
        g = s.segment
        row = [s.system, g.id, g.corpus, g.song, g.group, g.absent, s.failed or ""]
        writer.writerow([*row, *(s.scores.get(m, "") for m in metrics)])
    return text.getvalue()


def _summary(
    tables: Mapping[str, Mapping[str, Mapping[str, Cell]]],
    fad: Mapping[str, Any],
    facts: Mapping[str, str],
) -> dict[str, Any]:
    def plain(c: Cell) -> dict[str, Any]:
        numbers = {"mean": c.mean, "low": c.low, "high": c.high}
        told = {k: None if math.isnan(v) else v for k, v in numbers.items()}
        return told | {"count": c.count, "failed": c.failed}

    means = {
        metric: {system: {g: plain(c) for g, c in cells.items()} for system, cells in rows.items()}
        for metric, rows in tables.items()
    }
    return {"facts": dict(facts), "means": means, "fad": fad}
