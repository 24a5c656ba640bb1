"""A plain folder of songs, a manifest, or a folder of music without stems.

my_songs/                        split folders train, validation and test are used if there are any
    Artist/Song/bass.wav         any depth: a folder with audio files is a song
    Artist/Song/lead guitar.flac     a file's name is its label, without numbers around it
    Artist/Song/mixture.wav      not read: the mixture used is the sum of the stems

songs.csv or songs.jsonl         columns or keys: song, label, path; and split, stem if wanted
                                 (lines of one song and stem are summed)

With `"mixture_only": true` every audio file of the folder is a song by itself.
"""

import re
from pathlib import Path

import soundfile as sf

from mge_plugin.config import ConfigError
from mge_plugin.data import containers
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.manifest import find_listed, is_manifest, read_listed
from mge_plugin.data.corpora.reader import Found, FoundStem, Place, Reader, read_part
from mge_plugin.data.corpora.scan import File, Scanner, plain
from mge_plugin.data.corpora.splits import SPLITS, draw_splits, split_folders
from mge_plugin.data.songs import IndexReport

MIXTURES = {"mixture", "mix", "master", "linear_mixture"}
AUDIO = {f".{name.lower()}" for name in sf.available_formats()} - {".raw"}
AUDIO |= {".aif", ".aifc", ".oga", ".opus", ".rf64", *containers.SUFFIXES}


def find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The songs of all splits; files that are no audio are counted by their ending."""
    if is_manifest(Path(config.path)):
        return find_listed(scanner, config)
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
            places += [Place(_id(f.path, top), f.path, splits, (f,)) for f in audio]
        elif audio and folder != top:
            places.append(Place(_id(folder, top), folder, splits, tuple(audio)))
        else:
            for file in audio:
                reason = "file outside of a song's folder (mixture_only: true takes it for a song)"
                scanner.report.leave_out(file.path, reason)
    return places


def _id(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()


def _is_audio(file: File, report: IndexReport) -> bool:
    ending = file.path.suffix.lower()
    if ending not in AUDIO:
        report.leave_out(file.path, f"file that is not read as audio ({ending or 'no ending'})")
    return ending in AUDIO


def read_song(place: Place, config: CorpusConfig) -> Found:
    """Each file is a stem; one that holds the mixture is not."""
    if place.listed:
        return read_listed(place)
    report = IndexReport()
    stems = []
    for file in place.files:
        if plain(file.path.stem) in MIXTURES and not config.mixture_only:
            report.leave_out(file.path, "file that holds the mixture, which is the sum of stems")
        elif parts := read_part(file.path, report):
            stems.append(FoundStem((label_of(file.path.stem),), parts))
    return Found(tuple(stems), report=report)


def label_of(name: str) -> str:
    """The words in a file's name: "01_lead-guitar_2" is a lead guitar."""
    words = re.sub(r"[\s_.-]+", " ", name).strip()
    label = re.sub(r"^(\d+ )+|( ?\d+)+$", "", words).strip()
    return (label or words).lower()


READER = Reader(find_songs, read_song)
