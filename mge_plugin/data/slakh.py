"""Slakh2100, original, redux or Baby, and MiniSlakh.

slakh2100_flac_redux/            or, without split folders, babyslakh_16k/
    train/
        Track00001/
            metadata.yaml        stems: {S00: {program_num: 33, is_drum: false, ...}, ...}
            stems/S00.flac       mono; the plain sum of the stems is the mixture
    validation/
    test/
    omitted/                     redux: never read, its songs are duplicates
"""

from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from typing import Any
from unicodedata import normalize

import yaml

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.audio import AudioError, audio_info
from mge_plugin.data.songs import IndexReport, Song, Stem

SPLITS = ("train", "validation", "test")
OMITTED = "omitted"
METADATA = "metadata.yaml"
SUFFIXES = (".flac", ".wav")
SHORT = 0.99  # a stem below this share of its song's length is reported: perhaps it was cut off
DRUMS = 128  # Slakh's own program number

# First General MIDI program (0-based) of each label. Slakh's instrument classes are ranges of
# programs too, but file choirs under strings and accordions under organ; prompts should not.
_FIRST_PROGRAMS = {
    0: "piano", 8: "chromatic percussion", 16: "organ", 21: "accordion", 22: "harmonica",
    23: "accordion", 24: "guitar", 32: "bass", 40: "strings", 46: "harp", 47: "timpani",
    48: "strings", 52: "choir", 55: "orchestra hit", 56: "brass", 64: "reed", 72: "pipe",
    80: "synth lead", 88: "synth pad", 96: "synth effects", 104: "ethnic", 112: "percussion",
    119: "sound effects", DRUMS: "drums",
}  # fmt: skip
# Where there is no program: Slakh's classes that have another name here. Two differ by case only.
_CLASSES = {
    "Strings (continued)": "strings",
    "Sound Effects": "synth effects",
    "Sound effects": "sound effects",
    "Percussive": "percussion",
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is 7 times as fast


def label_of(stem: dict[str, Any]) -> str:
    """The instrument in words, by drum flag, then program, then name of the class."""
    program, name = stem.get("program_num"), str(stem.get("inst_class") or "other")
    if stem.get("is_drum") is True:
        return _FIRST_PROGRAMS[DRUMS]
    if isinstance(program, int) and 0 <= program <= DRUMS:
        starts = sorted(_FIRST_PROGRAMS)
        return _FIRST_PROGRAMS[starts[bisect_right(starts, program) - 1]]
    return _CLASSES.get(name, name.lower())


def read_slakh(root: Path, split: str, report: IndexReport) -> list[Song]:
    """Index one split; a stem listed but not rendered is skipped, a broken song is left out."""
    folder = _split_folder(root, split)
    if folder == root:
        report.note(root, f"corpus without split folders, all of it is used as {split!r}")
    folders = _song_folders(folder)
    if not folders:
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise ConfigError(f"{folder}: expected song folders TrackNNNNN, found {found}")
    songs = [song for path in folders if (song := _read_song(path, split, report)) is not None]
    if not songs:
        reasons = "; ".join(report.lines())
        raise ConfigError(f"{folder}: none of {len(folders)} songs is usable: {reasons}")
    _note_duplicates(root, songs, report)
    return songs


def _split_folder(root: Path, split: str) -> Path:
    choose(f"{root}: split", split, dict.fromkeys(SPLITS))
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    if root.resolve().name == OMITTED:
        raise ConfigError(f"{root}: its songs are duplicates of others, expected the folder above")
    present = [name for name in SPLITS if (root / name).is_dir()]
    if present and split not in present:
        raise ConfigError(f"{root}: has no split {split!r}, found {present}")
    return root / split if present else root


def _song_folders(folder: Path) -> list[Path]:
    """Slakh's TrackNNNNN, and whatever else holds the metadata of a song."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
        if path.name.startswith("Track") or (path / METADATA).is_file()
    ]


def _read_metadata(song: Path) -> dict[str, Any]:
    """A song's metadata; ValueError says in words why there is none."""
    try:
        metadata = yaml.load((song / METADATA).read_bytes(), Loader=_LOADER)
    except FileNotFoundError:
        raise ValueError("song without metadata") from None
    except (OSError, yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        reason = f"song whose metadata cannot be read ({type(error).__name__})"
        raise ValueError(reason) from error
    stems = metadata.get("stems") if isinstance(metadata, dict) else None
    if not isinstance(stems, dict) or not stems:
        raise ValueError("song whose metadata lists no stems")
    return metadata


def _read_song(path: Path, split: str, report: IndexReport) -> Song | None:
    try:
        listed = _read_metadata(path)["stems"]
    except ValueError as error:
        report.leave_out(path / METADATA, str(error))
        return None
    files = _stem_files(path / "stems")
    stems = [_read_stem(path, str(name), entry, files, report) for name, entry in listed.items()]
    stems = tuple(stem for stem in stems if stem is not None)
    if len(stems) < 2:
        report.leave_out(path, "song with fewer than 2 stems, too few for a triplet")
        return None
    song = Song(path.name, path, split, stems)
    for stem in stems:
        if stem.seconds < SHORT * song.seconds:
            report.note(stem.path, "stem that ends early, silent from there on")
    return song


def _stem_files(folder: Path) -> dict[str, dict[str, Path]]:
    """A folder's files by name and ending; companions of another system (._S00.flac) are none."""
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            files[_plain(path.stem)][path.suffix.lower()] = path
    return files


def _plain(name: str) -> str:
    """A name without what file systems change: case, and how accents are composed."""
    return normalize("NFC", name).casefold()


def _read_stem(
    song: Path, name: str, entry: Any, files: dict[str, dict[str, Path]], report: IndexReport
) -> Stem | None:
    """`audio_dir` is ignored (it is wrong in some songs); existence of the file beats the flags.

    Only files that lie in `stems` are found, whatever `name` says.
    """
    if not isinstance(entry, dict):
        report.leave_out(f"{song / METADATA}: {name}", "stem listed without its fields")
        return None
    found = files.get(_plain(name), {})
    path = next((found[suffix] for suffix in SUFFIXES if suffix in found), None)
    if path is None:
        kind = "neither FLAC nor WAV" if found else "not rendered"
        report.leave_out(f"{song / METADATA}: {name}", f"stem listed but {kind}")
        return None
    try:
        sample_rate, num_frames = audio_info(path)
    except AudioError as error:
        report.leave_out(str(error), "unreadable stem")
        return None
    return Stem(label_of(entry), path, sample_rate, num_frames)


def _note_duplicates(root: Path, songs: list[Song], report: IndexReport) -> None:
    """One MIDI file rendered here and in another split too: what is learnt leaks into the test."""
    others: dict[str, Path] = {}
    for folder in (root / split for split in SPLITS if split != songs[0].split):
        for path in _song_folders(folder) if folder.is_dir() else ():
            others.setdefault(_uuid(path), path)
    others.pop("", None)
    for song in songs:
        if (uuid := _uuid(song.path)) in others:
            report.note(
                f"{song.path} and {others[uuid]}",
                "song whose MIDI file (UUID) is in another split too",
            )


def _uuid(song: Path) -> str:
    """The MIDI file that a song was rendered from; empty if unknown."""
    try:
        return str(_read_metadata(song).get("UUID") or "")
    except ValueError:
        return ""
