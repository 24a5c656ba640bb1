"""MUSDB18-HQ: a folder of WAV files a song.

musdb18hq/
    train/                       100 songs; splits are those of MUSDB18
        Artist - Title/
            drums.wav  bass.wav  other.wav  vocals.wav
            mixture.wav          not read: the mixture used is the sum of the stems
    test/                        50 songs
"""

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.musdb18 import ENDING, STREAMS, musdb_folders, musdb_splits
from mge_plugin.data.corpora.reader import (
    CorpusConfig,
    Found,
    FoundStem,
    Place,
    Reader,
    Scanner,
    by_name,
    read_part,
)
from mge_plugin.data.songs import IndexReport

_STEMS = STREAMS[1:]
_SUFFIXES = (".wav", ".flac")


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The song folders of both splits."""
    folders = musdb_folders(scanner, config.split)
    places = [
        Place(path.name, path, musdb_splits(name, path.name), files)
        for name, folder in folders.items()
        for path in scanner.folders(folder)
        if (files := tuple(scanner.files(path)))
    ]
    if not places:
        packed = any(
            file.name.lower().endswith(ENDING)
            for folder in folders.values()
            for file in scanner.files(folder)
        )
        hint = f", for files *{ENDING} use type 'musdb18'" if packed else ""
        raise ConfigError(f"{scanner.root}: expected song folders in train and test{hint}")
    return places


def _read_song(place: Place, _: CorpusConfig) -> Found:
    """The stems that are there."""
    report = IndexReport()
    files = by_name(place.files)
    stems = []
    for label in _STEMS:
        endings = files.get(label, {})
        path = next((endings[suffix] for suffix in _SUFFIXES if suffix in endings), None)
        if path is None:
            report.leave_out(place.path / f"{label}.wav", "stem whose file is missing")
        elif parts := read_part(path, report):
            stems.append(FoundStem((label,), parts))
    return Found(tuple(stems), report=report)


READER = Reader(_find_songs, _read_song)
