"""What is in an indexed corpus, as data and as a table in text."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mge_plugin.data.corpora.index import Corpus

EXAMPLES = 3  # places told for each reason
HOUR = 3600  # seconds


def summarize(corpus: Corpus) -> dict[str, Any]:
    """Songs, hours, stems by label, sample rates in Hz, and what was left out or odd and why."""
    config, songs = corpus.config, corpus.songs
    return {
        "id": config.id,
        "type": config.type,
        "path": config.path,
        "split": config.split,
        "mixture_only": config.mixture_only,
        "songs": len(songs),
        "hours": sum(song.seconds for song in songs) / HOUR,
        "stems": _stems(corpus),
        "sample_rates": dict(Counter(p.sample_rate for song in songs for p in song.parts)),
        "left_out": _reasons(corpus.report.left_out),
        "noticed": _reasons(corpus.report.odd),
    }


def _stems(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """By label, the commonest first: number, hours, and whether it may be the asked source."""
    stems = [stem for song in corpus.songs for stem in song.stems]
    counts = Counter(stem.label for stem in stems)
    hours: Counter[str] = Counter()
    for stem in stems:
        hours[stem.label] += stem.seconds / HOUR
    asked = {stem.label for stem in stems if stem.queryable}
    return {
        label: {"stems": counts[label], "hours": hours[label], "queryable": label in asked}
        for label in sorted(counts, key=lambda label: (-counts[label], label))
    }


def _reasons(places: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "count": len(where), "first": where[:EXAMPLES]}
        for reason, where in places.items()
    ]


def table(summary: dict[str, Any]) -> Iterator[str]:
    """The lines of a summary."""
    yield f"{summary['id']}  ({summary['type']}, {summary['split']})  {summary['path']}"
    rates = ", ".join(f"{rate} Hz" for rate in sorted(summary["sample_rates"]))
    yield f"  {summary['songs']} songs, {summary['hours']:.2f} hours, {rates}"
    width = max(map(len, [*summary["stems"], "label"]))
    yield f"  {'label':{width}} {'stems':>7} {'hours':>8}"
    for label, stem in summary["stems"].items():
        never = "" if stem["queryable"] else "  never asked for"
        yield f"  {label:{width}} {stem['stems']:7} {stem['hours']:8.2f}{never}"
    for kind, title in (("left_out", "left out"), ("noticed", "noticed")):
        for entry in summary[kind]:
            yield f"  {title} {entry['count']}: {entry['reason']}"
            yield from (f"      {place}" for place in entry["first"])
