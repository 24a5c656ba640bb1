"""The song index of the corpora in a config: found, read or remembered, selected, reported."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.corpora import folder, manifest, medleydb, moisesdb, musdb18, musdb18_hq, slakh
from mge_plugin.data.corpora.cache import IndexCache, from_entry, place_key, to_entry
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.reader import Found, Place, Reader
from mge_plugin.data.corpora.scan import Scanner
from mge_plugin.data.corpora.select import note_unknown_exclusions, to_song, usable_songs
from mge_plugin.data.songs import IndexReport, Song

READERS: dict[str, Reader] = {
    "slakh": slakh.READER,
    "musdb18": musdb18.READER,
    "musdb18_hq": musdb18_hq.READER,
    "moisesdb": moisesdb.READER,
    "medleydb": medleydb.READER,
    "folder": folder.READER,
}
THREADS = 8  # headers are read in parallel: on a network disk each waits for its file
MANY = 200  # songs from which on a bar shows how far the reading is


@dataclass(frozen=True)
class Corpus:
    """One corpus read: its songs and what was left out or odd."""

    config: CorpusConfig
    songs: tuple[Song, ...]
    report: IndexReport


def index_corpora(
    configs: Sequence[CorpusConfig], cache_folder: Path | None = None
) -> list[Corpus]:
    """Read every corpus and log what was left out; one with nothing usable raises ConfigError."""
    corpora = [read_corpus(config, cache_folder) for config in configs]
    for corpus in corpora:
        corpus.report.log(corpus.config.id)
    return corpora


def read_corpus(config: CorpusConfig, cache_folder: Path | None = None) -> Corpus:
    """Read the songs of one corpus's split; nothing usable raises ConfigError with the reasons."""
    report = IndexReport()
    root = corpus_root(config)
    reader = choose("type", config.type, READERS)
    every = reader.find(Scanner(root, report, config.follow_links), config)
    for place in every:
        if place.id in config.exclude and config.split in place.splits:
            report.leave_out(place.path, "song excluded by the config")
    read = _read(every, reader, config, cache_folder, root)
    chosen = [(p, f) for p, f in zip(every, read, strict=True) if config.split in p.splits]
    others = [(p, f) for p, f in zip(every, read, strict=True) if config.split not in p.splits]
    chosen = _without_duplicates(chosen, others, config, report)
    chosen = [(p, f) for p, f in chosen if p.id not in config.exclude]
    songs = [to_song(place, found, reader.words, config) for place, found in chosen]
    for _, found in chosen:
        report.merge(found.report)
    note_unknown_exclusions(every, read, config, report)
    songs = [song for song in songs if song is not None]
    usable = usable_songs(songs, config, report)
    if not usable:
        raise ConfigError(_nothing_usable(root, config, songs, len(chosen), report))
    return Corpus(config, tuple(usable), report)


def corpus_root(config: CorpusConfig) -> Path:
    """The folder of a corpus; a manifest's is the one that its paths start from."""
    path = Path(config.path).expanduser()
    if config.type == "folder" and manifest.is_manifest(path):
        return manifest.audio_root(config)
    return path


def _read(
    places: list[Place], reader: Reader, config: CorpusConfig, folder: Path | None, root: Path
) -> list[Found]:
    """What was remembered of every place, or else is read now and remembered."""
    cache = None if folder is None else IndexCache.of(folder, root, config)
    entries = {} if cache is None else cache.load()
    remembered = [from_entry(place, entries.get(place_key(place))) for place in places]
    new = [place for place, found in zip(places, remembered, strict=True) if found is None]
    read = dict(zip(map(place_key, new), _read_headers(new, reader, config), strict=True))
    result = [
        read[place_key(place)] if found is None else found
        for place, found in zip(places, remembered, strict=True)
    ]
    if cache is not None and (new or len(entries) > len(places)):
        kept = {place_key(p): to_entry(p, f) for p, f in zip(places, result, strict=True)}
        cache.save({key: entry for key, entry in kept.items() if entry is not None})
    return result


def _read_headers(places: list[Place], reader: Reader, config: CorpusConfig) -> list[Found]:
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda place: reader.read(place, config), places)
        hidden = len(places) < MANY
        bar = tqdm(read, f"{config.id}: headers", len(places), unit="song", disable=hidden)
        return list(bar)


def _without_duplicates(
    chosen: list[tuple[Place, Found]],
    others: list[tuple[Place, Found]],
    config: CorpusConfig,
    report: IndexReport,
) -> list[tuple[Place, Found]]:
    """Songs made from what a song of another split is made from leak: said, or left out."""
    origins = {found.origin: place for place, found in reversed(others) if found.origin}
    leaks = [(place, origins[found.origin]) for place, found in chosen if found.origin in origins]
    if leaks and config.on_duplicates == "error":
        first, other = leaks[0]
        what = f"{len(leaks)} songs are in another split too, e.g. {first.path} and {other.path}"
        raise ConfigError(f"datasets: {config.id!r}: {what}")
    leave_out = config.on_duplicates == "leave_out"
    say = report.leave_out if leave_out else report.note
    for place, other in leaks:
        say(f"{place.path} and {other.path}", "song whose MIDI file (UUID) is in another split too")
    if not leave_out:
        return chosen
    return [(place, found) for place, found in chosen if found.origin not in origins]


def _nothing_usable(
    root: Path, config: CorpusConfig, songs: list[Song], places: int, report: IndexReport
) -> str:
    reasons = "; ".join(report.lines())
    if any(len(song.stems) > 1 for song in songs):
        return f"datasets: {config.id!r} has no song left by its labels: {reasons}"
    return f"{root}: none of {places} songs is usable: {reasons}"
