"""The results of an evaluation as one page, a CSV and a JSON.

Means with intervals, as the paper's tables have them: one row per system, one column per label.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mge_plugin.data.audio import read_audio
from mge_plugin.evaluation.metrics import interval
from mge_plugin.evaluation.run import RATIO_DB, REFERENCE, Scored, audio_path
from mge_plugin.files import write_file, write_json
from mge_plugin.report import Clip, Page, Section, Table, write_page

_EXAMPLES = 3  # best and worst segments with players
_METRICS = {  # title, and which side is better
    "log_mel_l1": ("Log-Mel L1", "lower"),
    "spectral_distance": ("Multi-resolution spectral distance", "lower"),
    "si_sdr": ("SI-SDR, dB", "higher"),
    "sdr": ("SDR, dB", "higher"),
    "si_sar": ("SI-SAR, dB", "higher"),
    "clap_score": ("CLAP score", "higher"),
    "mixture_consistency_db": (
        "Mixture consistency: mixture - (submixture + source), dB",
        "lower",
    ),
    "silence_error_db": (
        "Silence error: level of an absent target's estimate against the mixture, dB",
        "lower",
    ),
    "level_db": ("Level, dB (extract and add: against the mixture)", None),
}
_SETTINGS = (
    "Log-Mel L1: 16 kHz mono, window 1024, hop 160, 64 mel bands from 0 to 8 kHz, power, natural "
    "logarithm with a floor of 1e-5 on both sides; the paper does not state its settings. Ratios "
    f"in dB are limited to {RATIO_DB[0]:g} and {RATIO_DB[1]:g}: SI-SDR and SI-SAR of a silent "
    f"estimate are {RATIO_DB[0]:g}. Listeners' ratings follow SDR for vocals, SI-SAR for drums and "
    "bass (arXiv 2507.06917)."
)


@dataclass(frozen=True)
class Cell:
    """A mean over segments, its 95 % interval over songs, and counts of segments."""

    mean: float
    low: float
    high: float
    count: int  # segments that have the metric
    failed: int = 0  # segments without an estimate
    silent: int = 0  # segments whose target sounds and whose estimate is silent

    def __str__(self) -> str:
        if not self.count:
            return "-"
        spread = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        silent = f", {self.silent} silent" if self.silent else ""
        return f"{self.mean:.2f}{spread}{silent}"


def table(scored: Sequence[Scored], metric: str) -> dict[str, dict[str, Cell]]:
    """Cells by system and group (the target labels); the average over groups last."""
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
    """The mean of one metric; failed and silent estimates are counted."""
    valued = [(v, s) for s in scored if (v := s.scores.get(metric)) is not None]
    values = [value for value, _ in valued]
    songs = [f"{s.segment.corpus}/{s.segment.song}" for _, s in valued]
    failed = sum(s.failed is not None for s in scored)
    silent = sum(s.silent for _, s in valued)
    mean = float(np.mean(values)) if values else math.nan
    return Cell(mean, *interval(values, songs), len(values), failed, silent)


def _average(own: Sequence[Scored], cells: Mapping[str, Cell], metric: str) -> Cell:
    """The mean of the groups' means, as in the paper; its interval is as wide as all segments'."""
    means = [c.mean for c in cells.values() if c.count]
    whole, mean = cell(own, metric), float(np.mean(means)) if means else math.nan
    low, high = (mean + end - whole.mean for end in (whole.low, whole.high))
    return Cell(mean, low, high, whole.count, whole.failed, whole.silent)


def _quantiles(scored: Sequence[Scored], metric: str) -> dict[str, list[float]]:
    """By group: the 5, 25, 50, 75 and 95 % quantiles."""
    values: dict[str, list[float]] = {}
    for s in scored:
        if (value := s.scores.get(metric)) is not None:
            values.setdefault(s.segment.group, []).append(value)
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {group: np.quantile(v, shares).tolist() for group, v in values.items()}


def write_report(
    out: Path,
    scored: Sequence[Scored],
    fad: Mapping[str, Mapping[str, Mapping[str, Any]]],
    facts: Mapping[str, str],
) -> Path:
    """Write index.html, scores.csv and summary.json in `out`; return the page's path."""
    metrics = [m for m in _METRICS if any(m in s.scores for s in scored)]
    tables = {metric: table(scored, metric) for metric in metrics}
    write_file(out / "scores.csv", _csv(scored).encode())
    write_json(out / "summary.json", _summary(tables, fad, facts), 1)
    sections = [_fad_section(fad)] if fad else []
    sections += [_metric_section(metric, rows, facts) for metric, rows in tables.items()]
    sections += [*_distribution(scored), *_examples(out, scored)]
    failed = [s for s in scored if s.failed is not None]
    notices = [f"{len(failed)} estimates are missing: see the end of the page."] if failed else []
    if silent := sum(s.silent for s in scored):
        notices.append(f"{silent} estimates are silent although the target sounds.")
    if failed:
        rows = [[s.system, s.segment.id, str(s.failed)] for s in failed]
        missing = Table(["system", "segment", "why"], rows)
        sections.append(Section("Missing estimates", "", tables=[missing]))
    page = Page("Evaluation", _SETTINGS, " ".join(notices) or None, sections, facts)
    return write_page(page, out / "index.html")


def _metric_section(
    metric: str, rows: Mapping[str, Mapping[str, Cell]], facts: Mapping[str, str]
) -> Section:
    title, better = _METRICS[metric]
    text = "Mean over segments, in brackets the 95 % interval by bootstrap over songs."
    text += f" {better.capitalize()} is better." if better else ""
    title = f"{title}, {facts[title]}" if title in facts else title  # which embedder scored
    return Section(title, text, tables=[_table(rows)])


def _table(rows: Mapping[str, Mapping[str, Cell]]) -> Table:
    groups = list(dict.fromkeys(g for cells in rows.values() for g in cells))
    counts = {g: max(cells[g].count for cells in rows.values()) for g in groups}
    columns = ["", *(f"{g}, n = {counts[g]}" for g in groups)]
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
    return Section("FAD", text, tables=[Table(["", *groups], rows)])


def _fad_cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['fad']:.2f} (N {found['items']}, rank {found['rank']})"


def _distribution(scored: Sequence[Scored]) -> list[Section]:
    """Quantiles of the model's Log-Mel L1."""
    rows = _quantiles([s for s in scored if s.system == "model"], "log_mel_l1")
    if not rows:
        return []
    columns = ["", "5 %", "25 %", "median", "75 %", "95 %"]
    cells = [[group, *(f"{v:.2f}" for v in values)] for group, values in rows.items()]
    text = "Quantiles over segments."
    return [Section("Log-Mel L1 of the model: distribution", text, tables=[Table(columns, cells)])]


def _examples(out: Path, scored: Sequence[Scored]) -> list[Section]:
    """Players of the model's best and worst segments beside the reference."""
    model = [s for s in scored if s.system == "model" and s.failed is None]
    valued = [(v, s) for s in model if (v := s.scores.get("log_mel_l1")) is not None]
    own = [s for _, s in sorted(valued, key=lambda pair: pair[0])]
    if not own:
        return [_players(out, "Example", s) for s in model[:_EXAMPLES]]
    best = [_players(out, "Best", s) for s in own[:_EXAMPLES]]
    return best + [_players(out, "Worst", s) for s in own[: -_EXAMPLES - 1 : -1]]


def _players(out: Path, title: str, scored: Scored) -> Section:
    """The model's audio of a segment beside the reference, in one mixer."""
    value = scored.scores.get("log_mel_l1")
    caption = "" if value is None else f"Log-Mel L1 {value:.2f}"
    paths = {name: audio_path(out, name, scored.segment) for name in ("model", REFERENCE)}
    clips = [Clip(n, caption, *read_audio(path)) for n, path in paths.items() if path.is_file()]
    return Section(f"{title}: {scored.segment.group}", scored.segment.id, clips)


def _csv(scored: Sequence[Scored]) -> str:
    metrics = list(dict.fromkeys(m for s in scored for m in s.scores))
    text = io.StringIO()
    writer = csv.writer(text)
    columns = ["system", "segment", "corpus", "song", "wanted", "absent", "failed", "silent"]
    writer.writerow([*columns, *metrics])
    for s in scored:
        g = s.segment
        row = [s.system, g.id, g.corpus, g.song, g.group, g.absent, s.failed or "", s.silent]
        writer.writerow([*row, *(s.scores.get(m) for m in metrics)])
    return text.getvalue()


def _summary(
    tables: Mapping[str, Mapping[str, Mapping[str, Cell]]],
    fad: Mapping[str, Any],
    facts: Mapping[str, str],
) -> dict[str, Any]:
    def plain(c: Cell) -> dict[str, Any]:
        return {name: None if math.isnan(v) else v for name, v in asdict(c).items()}

    means = {
        metric: {system: {g: plain(c) for g, c in cells.items()} for system, cells in rows.items()}
        for metric, rows in tables.items()
    }
    return {"facts": dict(facts), "means": means, "fad": fad}
