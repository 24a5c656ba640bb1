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

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.corpora.reader import (
    SPLITS,
    CorpusConfig,
    Found,
    FoundStem,
    MetadataError,
    Place,
    Reader,
    Scanner,
    by_name,
    left_out,
    plain,
    read_part,
    read_yaml,
    split_folders,
)
from mge_plugin.data.songs import IndexReport

_OMITTED = "omitted"
_METADATA = "metadata.yaml"
_SUFFIXES = (".flac", ".wav")
_DRUMS = 128  # Slakh's own program number

# First General MIDI program (0-based) of each label. Slakh's instrument classes are ranges of
# programs too, but file choirs under strings and accordions under organ; prompts should not.
_FIRST_PROGRAMS = {
    0: "piano", 8: "chromatic percussion", 16: "organ", 21: "accordion", 22: "harmonica",
    23: "accordion", 24: "guitar", 32: "bass", 40: "strings", 46: "harp", 47: "timpani",
    48: "strings", 52: "choir", 55: "orchestra hit", 56: "brass", 64: "reed", 72: "pipe",
    80: "synth lead", 88: "synth pad", 96: "synth effects", 104: "ethnic", 112: "percussion",
    119: "sound effects", _DRUMS: "drums",
}  # fmt: skip
# Where there is no program: Slakh's classes that have another name here. Two differ by case only.
_CLASSES = {
    "Strings (continued)": "strings",
    "Sound Effects": "synth effects",
    "Sound effects": "sound effects",
    "Percussive": "percussion",
}


def _label_of(stem: dict[str, Any]) -> str:
    """The instrument in words, by drum flag, then program, then name of the class."""
    number, name = str(stem.get("program_num")), str(stem.get("inst_class") or "other")
    if str(stem.get("is_drum")).lower() == "true":
        return _FIRST_PROGRAMS[_DRUMS]
    if number.isdecimal() and (program := int(number)) <= _DRUMS:
        starts = sorted(_FIRST_PROGRAMS)
        return _FIRST_PROGRAMS[starts[bisect_right(starts, program) - 1]]
    return _CLASSES.get(name, name.lower())


def _find_songs(scanner: Scanner, config: CorpusConfig) -> list[Place]:
    """The songs of all splits: folders TrackNNNNN, and others with the metadata of a song."""
    root = scanner.root
    choose(f"{root}: split", config.split, dict.fromkeys(SPLITS))
    if root.resolve().name == _OMITTED:
        raise ConfigError(f"{root}: its songs are duplicates of others, expected the folder above")
    folders = split_folders(scanner, config.split)
    places = [
        Place(path.name, path, (split,), (*metadata, *scanner.files(path / "stems")))
        for split, folder in folders.items()
        for path in scanner.folders(folder)
        if (metadata := scanner.file(path / _METADATA)) or path.name.startswith("Track")
    ]
    if not any(config.split in place.splits for place in places):
        names = sorted(path.name for path in folders[config.split].iterdir())[:5]
        expected = f"expected song folders TrackNNNNN, found {names}"
        raise ConfigError(f"{folders[config.split]}: {expected}")
    return places


def _read_song(place: Place, _: CorpusConfig) -> Found:
    """A stem that is listed but not rendered is skipped; one that exists is used.

    `audio_dir` is ignored (it is wrong in some songs): only files in the folder `stems` are found.
    """
    try:
        metadata = read_yaml(place.path / _METADATA)
        listed = metadata.get("stems")
        if not isinstance(listed, dict) or not listed:
            raise MetadataError("song whose metadata lists no stems")
    except MetadataError as error:
        return left_out(place.path / _METADATA, str(error))
    report = IndexReport()
    files = by_name(file for file in place.files if file.parent.name == "stems")
    stems = [
        FoundStem((_label_of(entry),), parts)
        for name, entry in listed.items()
        if (parts := _read_stem(place.path / _METADATA, str(name), entry, files, report))
    ]
    return Found(tuple(stems), str(metadata.get("UUID") or ""), report)


def _read_stem(
    metadata: Path, name: str, entry: Any, files: dict[str, dict[str, Path]], report: IndexReport
) -> tuple:
    if not isinstance(entry, dict):
        report.leave_out(f"{metadata}: {name}", "stem listed without its fields")
        return ()
    found = files.get(plain(name), {})
    path = next((found[suffix] for suffix in _SUFFIXES if suffix in found), None)
    if path is None:
        kind = "neither FLAC nor WAV" if found else "not rendered"
        report.leave_out(f"{metadata}: {name}", f"stem listed but {kind}")
        return ()
    return read_part(path, report)


READER = Reader(_find_songs, _read_song)
