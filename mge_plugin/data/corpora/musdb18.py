"""MUSDB18: one .stem.mp4 per song, five AAC streams, decoded by PyAV.

musdb18/                         or MUSDB18-7, the 7-second excerpts
    train/                       100 songs; the paper trains on all of them
        Artist - Title.stem.mp4  streams: mixture, drums, bass, other, vocals
    test/                        50 songs

Splits: `train` (100), `test` (50), and musdb's own division of the 100: `train_86`, `validation`.
AAC is lossy, so the mixture stream is not the sum of the stems; the mixture used is the sum.
"""

from pathlib import Path

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.audio import MISSING_PYAV, AudioError, has_pyav, stream_infos
from mge_plugin.data.corpora.reader import (
    UNREADABLE,
    CorpusConfig,
    Found,
    FoundStem,
    Place,
    Reader,
    Scanner,
    left_out,
    split_folders,
)
from mge_plugin.data.songs import Part

ENDING = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
_FOLDERS = ("train", "test")
_SPLITS = ("train", "train_86", "validation", "test")
_VALIDATION = {
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
}


def musdb_folders(scanner: Scanner, split: str) -> dict[str, Path]:
    """The folders `train` and `test`; the one that holds `split` has to be there."""
    choose(f"{scanner.root}: split", split, dict.fromkeys(_SPLITS))
    return split_folders(scanner, "test" if split == "test" else "train", _FOLDERS)


def musdb_splits(folder: str, song: str) -> tuple[str, ...]:
    """The splits that a song of a folder is in."""
    if folder == "test":
        return ("test",)
    return ("train", "validation" if song in _VALIDATION else "train_86")


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The .stem.mp4 files of both folders."""
    folders = musdb_folders(scanner, config.split)
    places = []
    for name, folder in folders.items():
        for file in scanner.files(folder):
            if file.name.lower().endswith(ENDING):
                song = file.name[: -len(ENDING)]
                places.append(Place(song, file, musdb_splits(name, song), (file,)))
    if not places:
        folders_found = any(scanner.folders(folder) for folder in folders.values())
        hint = ", for folders of WAV files use type 'musdb18_hq'" if folders_found else ""
        raise ConfigError(f"{scanner.root}: expected files *{ENDING} in train and test{hint}")
    if not has_pyav():
        raise ConfigError(f"{places[0].path}: MUSDB18 stems found, but {MISSING_PYAV}")
    return places


def _read_song(place: Place, _: CorpusConfig) -> Found:
    """The four stems, each a stream of the one file."""
    try:
        infos = stream_infos(place.path)
    except AudioError as error:
        return left_out(str(error), UNREADABLE)
    if len(infos) != len(STREAMS):
        expected = f"expected {len(STREAMS)} ({', '.join(STREAMS)})"
        return left_out(place.path, f"song with {len(infos)} audio streams, {expected}")
    return Found(
        tuple(
            FoundStem((label,), (Part(place.path, *infos[number], number),))
            for number, label in enumerate(STREAMS)
            if label != "mixture"
        )
    )


READER = Reader(_find_songs, _read_song)
