"""MoisesDB v0.1: second-level tracks, summed into their top-level stem.

moisesdb/moisesdb_v0.1/          `path` may be this folder, the one above or one song
    5b3a.../                     a song
        data.json                stems: [{stemName, tracks: [{id, extension, ...}]}]
        bass/0c7e....wav         a track: its stem's name, its id

The paper tests on 24 songs (10 %) drawn at random, not named there: `test_share` of them
by `split_seed` (0.1 and 0). Tracks differ in length in 50 songs; shorter ones are padded.
"""

from pathlib import Path
from typing import Any

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.reader import (
    CorpusConfig,
    Found,
    FoundStem,
    MetadataError,
    Place,
    Reader,
    Scanner,
    draw_splits,
    left_out,
    plain,
    read_json_object,
    read_part,
)
from mge_plugin.data.songs import IndexReport, Part

_METADATA = "data.json"
_TEST_SHARE = 0.1  # paper, section E.1
_WORDS = {
    "other_plucked": "plucked strings",
    "other_keys": "keyboards",
    "bowed_strings": "bowed strings",
    "wind": "wind instruments",
}


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The folders with a data.json: the root itself, those in it, or those one level below."""
    level = [scanner.root]
    for _ in range(3):
        songs = {path: metadata for path in level if (metadata := scanner.file(path / _METADATA))}
        if songs:
            break
        level = [child for path in level for child in scanner.folders(path)]
    else:
        raise ConfigError(f"{scanner.root}: expected song folders with a {_METADATA}, found none")
    splits = draw_splits([path.name for path in songs], config, _TEST_SHARE)
    return [
        Place(path.name, path, (splits[path.name],), (*metadata, *_tracks(scanner, path)))
        for path, metadata in songs.items()
    ]


def _tracks(scanner: Scanner, song: Path) -> list[Path]:
    return [file for folder in scanner.folders(song) for file in scanner.files(folder)]


def _read_song(place: Place, _: CorpusConfig) -> Found:
    """The stems listed; only files in the song's own folders are found, whatever a name says."""
    try:
        listed = read_json_object(place.path / _METADATA).get("stems")
    except MetadataError as error:
        return left_out(place.path / _METADATA, str(error))
    if not isinstance(listed, list) or not listed:
        return left_out(place.path / _METADATA, "song whose metadata lists no stems")
    files = {(plain(file.parent.name), plain(file.stem)): file for file in place.files}
    report = IndexReport()
    stems = [
        FoundStem((str(entry["stemName"]),), parts)
        for entry in listed
        if isinstance(entry, dict) and "stemName" in entry
        if (parts := _read_parts(place, entry, files, report))
    ]
    return Found(tuple(stems), report=report)


def _read_parts(
    place: Place, entry: dict[str, Any], files: dict[tuple[str, str], Path], report: IndexReport
) -> tuple[Part, ...]:
    name, tracks = str(entry["stemName"]), entry.get("tracks")
    if not isinstance(tracks, list) or not tracks:
        report.leave_out(f"{place.path / _METADATA}: {name}", "stem listed without tracks")
        return ()
    parts: list[Part] = []
    for track in tracks:
        number = str(track.get("id")) if isinstance(track, dict) else str(track)
        path = files.get((plain(name), plain(number)))
        if path is None:
            report.leave_out(f"{place.path / _METADATA}: {name}/{number}", "track without a file")
        else:
            parts += read_part(path, report)
    return tuple(parts)


READER = Reader(_find_songs, _read_song, _WORDS)
