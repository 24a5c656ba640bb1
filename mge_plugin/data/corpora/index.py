"""The song index of the corpora in a config: found, read or remembered, selected, reported.

The index on disk is one JSON file per corpus. A song is read again when one of its files was
changed, removed or added, or its manifest's lines were. Songs with a file that could not be read
are not kept, since the cause may be gone next time.
"""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs
from tqdm import tqdm

from mge_plugin import __version__
from mge_plugin.config import ConfigError, choose
from mge_plugin.data.corpora import folder, medleydb, moisesdb, musdb18, musdb18_hq, slakh
from mge_plugin.data.corpora.duplicates import (
    titles,
    without_corpus_duplicates,
    without_split_duplicates,
)
from mge_plugin.data.corpora.reader import (
    READER_OPTIONS,
    UNREADABLE,
    Corpus,
    CorpusConfig,
    Found,
    FoundStem,
    Place,
    Reader,
    Scanner,
)
from mge_plugin.data.corpora.select import note_unknown_exclusions, to_song, usable_songs
from mge_plugin.data.songs import IndexReport, Part, Song
from mge_plugin.files import read_index, stamp, write_index

_logger = logging.getLogger(__name__)

AUTO = "auto"
READERS: dict[str, Reader] = {
    "slakh": slakh.READER,
    "musdb18": musdb18.READER,
    "musdb18_hq": musdb18_hq.READER,
    "moisesdb": moisesdb.READER,
    "medleydb": medleydb.READER,
    "folder": folder.READER,
}
_SELECTING = ("test_share", "validation_share", "split_seed")  # they change nothing in a song
_THREADS = 8  # headers read at a time: on a network disk each waits for its file
_MANY = 200  # songs from which on a bar shows how far the reading is
_EXAMPLES = 3  # places shown for each reason
_HOUR = 3600  # seconds


def cache_folder(setting: str | None) -> Path | None:
    """The folder that `index_cache` names: "auto" is the user's cache folder, null is none."""
    if setting == AUTO:
        return platformdirs.user_cache_path("mge_plugin", appauthor=False) / "index"
    return None if setting is None else Path(setting).expanduser()


def index_corpora(
    configs: Sequence[CorpusConfig], cache_folder: Path | None = None
) -> list[Corpus]:
    """Read every corpus and log what was left out; one with nothing usable raises ConfigError."""
    corpora = [read_corpus(config, cache_folder) for config in configs]
    corpora = without_corpus_duplicates(corpora)
    for corpus in corpora:
        corpus.report.log(corpus.config.id)
    return corpora


def read_corpus(config: CorpusConfig, cache_folder: Path | None = None) -> Corpus:
    """Read the songs of one corpus's split; nothing usable raises ConfigError with the reasons."""
    report = IndexReport()
    root = _root(config)
    reader = choose("type", config.type, READERS)
    every = reader.find(Scanner(root, report, config.follow_links), config)
    for place in every:
        if place.id in config.exclude and config.split in place.splits:
            report.leave_out(place.path, "song excluded by the config")
    read = _read(every, reader, config, cache_folder, root)
    chosen = [(p, f) for p, f in zip(every, read, strict=True) if config.split in p.splits]
    others = [(p, f) for p, f in zip(every, read, strict=True) if config.split not in p.splits]
    chosen = without_split_duplicates(chosen, others, config, report)
    chosen = [(p, f) for p, f in chosen if p.id not in config.exclude]
    for _, found in chosen:
        report.merge(found.report)
    note_unknown_exclusions(every, read, config, report)
    read_songs = (to_song(place, found, reader.words, config) for place, found in chosen)
    songs = [song for song in read_songs if song is not None]
    usable = usable_songs(songs, config, report)
    if not usable:
        raise ConfigError(_nothing_usable(root, config, songs, len(chosen), report))
    return Corpus(config, tuple(usable), report, titles([place for place, _ in others]))


def _root(config: CorpusConfig) -> Path:
    """The folder of a corpus; of a manifest the one to which its paths are relative."""
    path = Path(config.path).expanduser()
    if config.type == "folder" and folder.is_manifest(path):
        return folder.audio_root(config)
    return path


def _read(
    places: list[Place], reader: Reader, config: CorpusConfig, folder: Path | None, root: Path
) -> list[Found]:
    """What was remembered of every place, or else is read now and remembered."""
    path = None if folder is None else folder / _index_name(root, config)
    entries = {} if path is None else read_index(path)
    keys = [f"{place.path}|{place.id}" for place in places]
    stamps = [_stamp(place) for place in places]
    result = {
        key: found
        for key, stamped in zip(keys, stamps, strict=True)
        if (found := _remembered(entries.get(key), stamped)) is not None
    }
    new = {key: place for key, place in zip(keys, places, strict=True) if key not in result}
    result |= zip(new, _read_headers(list(new.values()), reader, config), strict=True)
    if path is not None and (new or len(entries) > len(places)):
        kept = {k: _entry(s, result[k]) for k, s in zip(keys, stamps, strict=True)}
        write_index(path, {key: entry for key, entry in kept.items() if entry is not None})
    return [result[key] for key in keys]


def _index_name(root: Path, config: CorpusConfig) -> str:
    """The file of a corpus at `root`, read with the options that change what a song is."""
    names = [n for n in READER_OPTIONS[config.type] if n not in _SELECTING]
    options = {name: getattr(config, name) for name in names}
    options["follow_links"] = config.follow_links
    options["loose files"] = config.type == "folder" and config.mixture_only
    key = json.dumps([__version__, str(root.resolve()), config.type, options])
    return f"{config.type}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _stamp(place: Place) -> list[Any]:
    """Values that change when what was read of a place may no longer be true."""
    files = [[str(path), _file_stamp(path)] for path in place.files]
    return [files, [list(line) for line in place.listed]]


def _file_stamp(path: Path) -> list[int] | None:
    try:
        return stamp(path)
    except OSError:  # gone since it was listed
        return None


def _entry(stamp: list[Any], found: Found) -> dict[str, Any] | None:
    """What is kept of a song; None if it should be read again."""
    if UNREADABLE in found.report.left_out:
        return None
    stems = [[labels, [_plain_part(part) for part in parts]] for labels, parts in found.stems]
    return {"stamp": stamp, "stems": stems, "origin": found.origin, "report": asdict(found.report)}


def _plain_part(part: Part) -> list[Any]:
    return [str(part.path), part.sample_rate, part.num_frames, part.stream]


def _remembered(entry: Any, stamp: list[Any]) -> Found | None:
    """What was read of a song, if nothing has changed and the entry is one."""
    try:
        if entry["stamp"] != stamp:
            return None
        stems = tuple(
            FoundStem(tuple(labels), tuple(Part(Path(p), *rest) for p, *rest in parts))
            for labels, parts in entry["stems"]
        )
        return Found(stems, str(entry["origin"]), IndexReport(**entry["report"]))
    except (KeyError, TypeError, ValueError):
        return None


def _read_headers(places: list[Place], reader: Reader, config: CorpusConfig) -> list[Found]:
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda place: reader.read(place, config), places)
        hidden = len(places) < _MANY
        bar = tqdm(read, f"{config.id}: headers", len(places), unit="song", disable=hidden)
        return list(bar)


def _nothing_usable(
    root: Path, config: CorpusConfig, songs: list[Song], places: int, report: IndexReport
) -> str:
    reasons = "; ".join(report.lines())
    if any(len(song.stems) > 1 for song in songs):
        return f"datasets: {config.id!r} has no song left by its labels: {reasons}"
    return f"{root}: none of {places} songs is usable: {reasons}"


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
        "hours": sum(song.seconds for song in songs) / _HOUR,
        "stems": _stems(corpus),
        "sample_rates": dict(Counter(p.sample_rate for song in songs for p in song.parts)),
        "left_out": _reasons(corpus.report.left_out),
        "noticed": _reasons(corpus.report.odd),
    }


def _stems(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """By label, the most frequent first: number, hours, and whether it may be the source."""
    stems = [stem for song in corpus.songs for stem in song.stems]
    counts = Counter(stem.label for stem in stems)
    hours: dict[str, float] = defaultdict(float)
    for stem in stems:
        hours[stem.label] += stem.seconds / _HOUR
    sources = {stem.label for stem in stems if stem.queryable}
    return {
        label: {"stems": counts[label], "hours": hours[label], "queryable": label in sources}
        for label in sorted(counts, key=lambda label: (-counts[label], label))
    }


def _reasons(places: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "count": len(where), "first": where[:_EXAMPLES]}
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
        never = "" if stem["queryable"] else "  never the source"
        yield f"  {label:{width}} {stem['stems']:7} {stem['hours']:8.2f}{never}"
    for kind, title in (("left_out", "left out"), ("noticed", "noticed")):
        for entry in summary[kind]:
            yield f"  {title} {entry['count']}: {entry['reason']}"
            yield from (f"      {place}" for place in entry["first"])
