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
from pathlib import Path
from typing import Any

import yaml

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import AudioError, audio_info
from mge_plugin.data.songs import IndexReport, Song, Stem

SPLITS = ("train", "validation", "test")
SUFFIXES = (".flac", ".wav")
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


def label_of(stem: dict[str, Any]) -> str:
    """The instrument in words, by drum flag and program; by class name where there is no program."""
    program = stem.get("program_num")
    if stem.get("is_drum") is True:
        return _FIRST_PROGRAMS[DRUMS]
    if isinstance(program, int) and 0 <= program <= DRUMS:
        starts = sorted(_FIRST_PROGRAMS)
        return _FIRST_PROGRAMS[starts[bisect_right(starts, program) - 1]]
    return str(stem.get("inst_class", "other")).lower()


def read_slakh(root: Path, split: str, report: IndexReport) -> list[Song]:
    """Index one split; a stem listed but not rendered is skipped, a broken song is left out."""
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    if split not in SPLITS:
        raise ConfigError(f"{root}: unknown split {split!r}, expected one of {SPLITS}")
    folder = root / split if any((root / s).is_dir() for s in SPLITS) else root
    if not folder.is_dir():
        raise ConfigError(f"{root}: has no split {split!r}, found {_folders(root)}")
    tracks = [path for path in sorted(folder.iterdir()) if path.name.startswith("Track")]
    songs = [song for path in tracks if (song := _read_song(path, split, report)) is not None]
    if not songs:
        raise ConfigError(f"{folder}: no usable song among {len(tracks)} TrackNNNNN folders")
    return songs


def _read_song(path: Path, split: str, report: IndexReport) -> Song | None:
    try:
        metadata = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
        listed = metadata["stems"].items()
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        report.leave_out(path, f"song without a usable metadata.yaml ({type(error).__name__})")
        return None
    stems = [_read_stem(path, str(name), entry, report) for name, entry in listed]
    stems = tuple(stem for stem in stems if stem is not None)
    if len(stems) < 2:
        report.leave_out(path, "song with fewer than 2 stems, too few for a triplet")
        return None
    return Song(path.name, path, split, stems)


def _read_stem(song: Path, name: str, entry: Any, report: IndexReport) -> Stem | None:
    """`audio_dir` is ignored (it is wrong in some songs); existence of the file beats the flags."""
    if not name.isalnum() or not isinstance(entry, dict):
        report.leave_out(song / "metadata.yaml", "stem entry that is not S00, S01, ...")
        return None
    paths = [song / "stems" / f"{name}{suffix}" for suffix in SUFFIXES]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        report.leave_out(paths[0], "stem listed but not rendered")
        return None
    try:
        sample_rate, num_frames = audio_info(path)
    except AudioError as error:
        report.leave_out(path, f"unreadable stem ({str(error).removeprefix(f'{path}: ')})")
        return None
    return Stem(label_of(entry), path, sample_rate, num_frames)


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())
