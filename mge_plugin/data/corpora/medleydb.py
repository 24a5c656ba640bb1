"""MedleyDB 1 and 2.

MedleyDB/Audio/                  `path` may be this folder or the one above
    Artist_Track/
        Artist_Track_MIX.wav     not read: mastered, so not the sum of the stems
        Artist_Track_STEMS/Artist_Track_STEM_01.wav
        Artist_Track_RAW/        not read
        Artist_Track_METADATA.yaml   only in some copies; it is in the medleydb repository, under
                                     medleydb/data/Metadata: set `metadata_path` to that folder
"""

from pathlib import Path, PureWindowsPath
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
    read_part,
    read_yaml,
)
from mge_plugin.data.songs import IndexReport

_STEMS = "_STEMS"
_METADATA = "_METADATA.yaml"
_DEPTH = 3  # levels of folders in which songs are looked for
_WORDS = {
    "Unlabeled": "other",
    "Main System": "other",  # a room microphone: all instruments at once
    "fx/processed sound": "sound effects",
}


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The folders with a folder *_STEMS, with their metadata from wherever that is."""
    songs = dict(_songs(scanner, scanner.root, _DEPTH))
    if not songs:
        raise ConfigError(f"{scanner.root}: expected song folders with a folder *{_STEMS}")
    listed = _metadata(scanner, config)
    splits = draw_splits([song.name for song in songs], config)
    places = []
    for song, stems in songs.items():
        beside = scanner.file(song / f"{song.name}{_METADATA}")
        metadata = beside or listed.get(plain(f"{song.name}{_METADATA}"), [])
        files = (*metadata, *scanner.files(stems))
        places.append(Place(song.name, song, (splits[song.name],), files))
    return places


def _songs(scanner: Scanner, folder: Path, depth: int) -> list[tuple[Path, Path]]:
    """(song folder, its stem folder) in a folder and below."""
    children = scanner.folders(folder)
    stems = [child for child in children if child.name.endswith(_STEMS)]
    if stems:
        return [(folder, stems[0])]
    if not depth:
        return []
    return [song for child in children for song in _songs(scanner, child, depth - 1)]


def _metadata(scanner: Scanner, config: CorpusConfig) -> dict[str, list[Path]]:
    """Metadata files by name, from `metadata_path` or from Metadata beside the songs."""
    if config.metadata_path is None:
        files = scanner.files(scanner.root / "Metadata")
    else:
        root = Path(config.metadata_path).expanduser()
        inner = Scanner(root, scanner.report, config.follow_links)
        files = [file for _, files in inner.walk(root) for file in files]
    return {plain(file.name): [file] for file in files if file.name.endswith(_METADATA)}


def _read_song(place: Place, config: CorpusConfig) -> Found:
    """The stems that the metadata list; of their file names only the last part counts."""
    path = next((file for file in place.files if file.name.endswith(_METADATA)), None)
    if path is None:
        return left_out(place.path, "song without metadata (set metadata_path)")
    try:
        metadata = read_yaml(path)
    except MetadataError as error:
        return left_out(path, str(error))
    if config.drop_bleed and str(metadata.get("has_bleed")).lower() in ("yes", "true"):
        return left_out(path, "song with bleed between its stems (drop_bleed)")
    stems = metadata.get("stems")
    if not isinstance(stems, dict) or not stems:
        return left_out(path, "song whose metadata lists no stems")
    files = {plain(file.name): file for file in place.files if file != path}
    report = IndexReport()
    read = (_read_stem(path, name, entry, files, report) for name, entry in stems.items())
    return Found(tuple(stem for stem in read if stem is not None), report=report)


def _read_stem(
    metadata: Path, name: Any, entry: Any, files: dict[str, Path], report: IndexReport
) -> FoundStem | None:
    entry = entry if isinstance(entry, dict) else {}
    path = files.get(plain(PureWindowsPath(str(entry.get("filename", ""))).name))
    if path is None:
        report.leave_out(f"{metadata}: {name}", "stem listed without a file")
        return None
    labels = entry.get("instrument") or "Unlabeled"
    labels = labels if isinstance(labels, list) else [labels]
    parts = read_part(path, report)
    return FoundStem(tuple(map(str, labels)), parts) if parts else None


READER = Reader(_find_songs, _read_song, _WORDS)
