"""A plain folder of songs, a manifest, or a folder of music without stems.

my_songs/                        split folders train, validation and test are used if there are any
    Artist/Song/bass.wav         any depth: a folder with audio files is a song
    Artist/Song/lead guitar.flac     a file's name is its label, without numbers around it
    Artist/Song/mixture.wav      not read: the mixture used is the sum of the stems

songs.csv or songs.jsonl         a file per line; columns or keys: song, label, path, and optionally
                                 split and stem (lines of one song and stem are summed)

With `"mixture_only": true` every audio file of the folder is a song by itself.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import soundfile as sf

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.audio import CONTAINERS
from mge_plugin.data.corpora.reader import (
    SPLITS,
    CorpusConfig,
    Found,
    FoundStem,
    Place,
    Reader,
    Scanner,
    draw_splits,
    plain,
    read_part,
    split_folders,
)
from mge_plugin.data.songs import IndexReport, Part
from mge_plugin.files import read_regular

_SUFFIXES = (".csv", ".jsonl")
_REQUIRED = ("song", "label", "path")
_COLUMNS = (*_REQUIRED, "split", "stem")


def is_manifest(path: Path) -> bool:
    """Whether a corpus's path is a list of files, not a folder."""
    return path.suffix.lower() in _SUFFIXES


def audio_root(config: CorpusConfig) -> Path:
    """The folder to which a manifest's paths are relative; they may not leave it."""
    if config.audio_path is not None:
        return Path(config.audio_path).expanduser()
    return Path(config.path).expanduser().parent


def _find_listed(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The songs in the order of their ids; a path that is not there or leads out is left out."""
    manifest = Path(config.path).expanduser()
    songs: dict[str, list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for number, row in _rows(manifest):
        file = _find_file(scanner, row["path"], f"{manifest}:{number}")
        if file is not None:
            songs[row["song"]].append((file, row))
    splits = _splits(manifest, songs, config)
    return [
        Place(
            song,
            scanner.root,
            (splits[song],),
            tuple(file for file, _ in rows),
            tuple((str(file), row["label"], row.get("stem") or str(file)) for file, row in rows),
        )
        for song, rows in sorted(songs.items())
    ]


def _find_file(scanner: Scanner, path: str, where: str) -> Path | None:
    """The file that a line of a manifest names."""
    full = scanner.root / path
    if not scanner.contains(full):
        scanner.report.leave_out(f"{where}: {path}", "path that leads out of the folder")
    elif found := scanner.file(full):
        return found[0]
    else:
        scanner.report.leave_out(f"{where}: {path}", "listed file that is not there")
    return None


def _splits(manifest: Path, songs: Mapping[str, list], config: CorpusConfig) -> dict[str, str]:
    """The split of each song: the column's, where there is one, else by a draw."""
    if not songs:
        return {}
    named = {song: {row.get("split") or "" for _, row in rows} for song, rows in songs.items()}
    if not any(any(splits) for splits in named.values()):
        return draw_splits(songs, config)
    for song, splits in named.items():
        if len(splits) > 1:
            raise ConfigError(f"{manifest}: song {song!r} is in several splits: {sorted(splits)}")
        choose(f"{manifest}: split of {song!r}", next(iter(splits)), dict.fromkeys(SPLITS))
    return {song: next(iter(splits)) for song, splits in named.items()}


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row); a row without its columns raises."""
    try:
        text = read_regular(manifest).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{manifest}: cannot be read ({error})") from error
    read = _csv_rows if manifest.suffix.lower() == ".csv" else _json_rows
    for number, row in read(manifest, text):
        missing = [name for name in _REQUIRED if not row.get(name)]
        if missing:
            raise ConfigError(f"{manifest}:{number}: missing {', '.join(missing)}")
        yield number, {name: str(row[name]) for name in _COLUMNS if row.get(name)}


def _csv_rows(manifest: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines())
    for name in reader.fieldnames or ():
        choose(f"{manifest}: column", name, dict.fromkeys(_COLUMNS))
    for row in reader:
        yield reader.line_num, row


def _json_rows(manifest: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{manifest}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{manifest}:{number}: expected an object with {_REQUIRED}")
        for name in row:
            choose(f"{manifest}:{number}: key", name, dict.fromkeys(_COLUMNS))
        yield number, row


def _read_listed(place: Place) -> Found:
    """The listed stems; lines of one stem are its parts."""
    report = IndexReport()
    labels: dict[str, str] = {}
    parts: dict[str, list[Part]] = defaultdict(list)
    for path, label, stem in place.listed:
        labels.setdefault(stem, label)
        parts[stem] += read_part(Path(path), report)
    stems = (FoundStem((labels[stem],), tuple(read)) for stem, read in parts.items() if read)
    return Found(tuple(stems), report=report)


_MIXTURES = {"mixture", "mix", "master", "linear_mixture"}
AUDIO = {f".{name.lower()}" for name in sf.available_formats()} - {".raw"}
AUDIO |= {".aif", ".aifc", ".oga", ".opus", ".rf64", *CONTAINERS}


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The songs of all splits; files that are no audio are counted by their ending."""
    if is_manifest(Path(config.path)):
        return _find_listed(scanner, config)
    split_names = {path.name for path in scanner.folders(scanner.root)} & set(SPLITS)
    if split_names:
        folders = split_folders(scanner, config.split)
        places = [p for split, f in folders.items() for p in _places(scanner, f, (split,), config)]
    else:
        places = _drawn(_places(scanner, scanner.root, (), config), config)
    if not places:
        wanted = "audio files" if config.mixture_only else "folders SONG/LABEL.wav"
        reasons = "".join(f"; {line}" for line in scanner.report.lines())
        raise ConfigError(f"{scanner.root}: expected {wanted}, found none{reasons}")
    return places


def _drawn(places: list[Place], config: CorpusConfig) -> list[Place]:
    """Places with the splits of a draw."""
    splits = draw_splits([place.id for place in places], config)
    return [Place(p.id, p.path, (splits[p.id],), p.files) for p in places]


def _places(
    scanner: Scanner, top: Path, splits: tuple[str, ...], config: CorpusConfig
) -> list[Place]:
    places = []
    for folder, files in scanner.walk(top):
        audio = [file for file in files if _is_audio(file, scanner.report)]
        if config.mixture_only:
            places += [Place(_id(file, top), file, splits, (file,)) for file in audio]
        elif audio and folder != top:
            places.append(Place(_id(folder, top), folder, splits, tuple(audio)))
        else:
            for file in audio:
                reason = "file outside of a song's folder (with mixture_only: true it is a song)"
                scanner.report.leave_out(file, reason)
    return places


def _id(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()


def _is_audio(file: Path, report: IndexReport) -> bool:
    ending = file.suffix.lower()
    if ending not in AUDIO:
        report.leave_out(file, f"file that is not read as audio ({ending or 'no ending'})")
    return ending in AUDIO


def _read_song(place: Place, config: CorpusConfig) -> Found:
    """Each file is a stem, except a mixture."""
    if place.listed:
        return _read_listed(place)
    report = IndexReport()
    stems = []
    for file in place.files:
        if plain(file.stem) in _MIXTURES and not config.mixture_only:
            report.leave_out(file, "file of the mixture, which is the sum of stems")
        elif parts := read_part(file, report):
            stems.append(FoundStem((_label_of(file.stem),), parts))
    return Found(tuple(stems), report=report)


def _label_of(name: str) -> str:
    """The words in a file's name: "01_lead-guitar_2" is a lead guitar."""
    words = re.sub(r"[\s_.-]+", " ", name).strip()
    label = re.sub(r"^(\d+ )+|( ?\d+)+$", "", words).strip()
    return (label or words).lower()


READER = Reader(_find_songs, _read_song)
