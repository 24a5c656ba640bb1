"""From what a reader found to songs: labels in words, the stems that are used, a report."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mge_plugin.data.corpora.reader import CorpusConfig, Found, FoundStem, Place
from mge_plugin.data.songs import IndexReport, Part, Song, Stem

_UNNAMED = ("other", "unknown")  # labels that name no instrument
_MIXTURE = "mixture"  # the one stem's label of a mixture-only song
_SHORT = 0.99  # a stem below this share of its song's length is reported: perhaps it was cut off
_LOSSY = ".mp3"  # encoders and decoders shift it against other formats


def _label_in_words(labels: Iterable[str], words: Mapping[str, str], config: CorpusConfig) -> str:
    """The prompt's word for a stem's labels: the config's, the reader's or the label itself."""
    mapped = []
    for label in labels:
        word = words.get(label) or label.strip().lower() or _UNNAMED[0]
        mapped.append(config.label_map.get(label) or config.label_map.get(word) or word)
    known = [word for word in dict.fromkeys(mapped) if word not in _UNNAMED]
    return " and ".join(known) or _UNNAMED[0]


def to_song(
    place: Place, found: Found, words: Mapping[str, str], config: CorpusConfig
) -> Song | None:
    """The song with all stems but those excluded; None if that leaves nothing."""
    stems = tuple(
        Stem(label, parts, config.query_other or label not in _UNNAMED)
        for stem in found.stems
        if (parts := _kept_parts(place, stem, config))
        if (label := _label_in_words(stem.labels, words, config))
    )
    return Song(place.id, place.path, config.split, stems) if stems else None


def _kept_parts(place: Place, stem: FoundStem, config: CorpusConfig) -> tuple[Part, ...]:
    names = {f"{place.id}/{label}" for label in stem.labels}
    if names.intersection(config.exclude):
        return ()
    return tuple(part for part in stem.parts if _part_names(place, part).isdisjoint(config.exclude))


def _part_names(place: Place, part: Part) -> set[str]:
    return {f"{place.id}/{part.path.stem}", f"{place.id}/{part.path.name}"}


def usable_songs(songs: list[Song], config: CorpusConfig, report: IndexReport) -> list[Song]:
    """Songs that can be trained on; the others are left out, each with its reason."""
    if config.mixture_only:
        return [_mixture(song) for song in songs]
    _note_unknown_labels(songs, config, report)
    kept = []
    for song in songs:
        chosen = replace(song, stems=tuple(s for s in song.stems if _is_used(s, config)))
        if reason := _fault(song, chosen):
            report.leave_out(song.path, reason)
        else:
            _note_oddities(chosen, report)
            kept.append(chosen)
    return kept


def _mixture(song: Song) -> Song:
    return replace(song, stems=(Stem(_MIXTURE, song.parts, False),), mixture_only=True)


def _is_used(stem: Stem, config: CorpusConfig) -> bool:
    if config.labels is not None:
        return stem.label in config.labels
    return stem.label not in config.exclude_labels


def _fault(song: Song, chosen: Song) -> str:
    """Why a song with its `chosen` stems cannot be used; empty if it can."""
    if len(song.stems) < 2:
        return "song with fewer than 2 stems, too few for a triplet"
    if len(chosen.stems) < 2:
        return "song with fewer than 2 stems of the configured labels"
    if not chosen.sources:
        return "song without a stem that may be the source (query_other: true allows `other`)"
    return ""


def _note_oddities(song: Song, report: IndexReport) -> None:
    for stem in song.stems:
        if stem.seconds < _SHORT * song.seconds:
            report.note(stem.path, "stem that ends early, silent from there on")
    lossy = {part.path.suffix.lower() == _LOSSY for part in song.parts}
    if len(lossy) == 2:
        report.note(song.path, "song with MP3 beside other formats, aligned to some 50 ms only")


def _note_unknown_labels(songs: list[Song], config: CorpusConfig, report: IndexReport) -> None:
    known = sorted({stem.label for song in songs for stem in song.stems})
    for key in ("labels", "exclude_labels"):
        for label in sorted(set(getattr(config, key) or ()).difference(known)):
            nearest = difflib.get_close_matches(label, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"found: {', '.join(known)}"
            report.note(config.path, f"{key}: no stem is labelled {label!r}, {hint}")


def note_unknown_exclusions(
    places: list[Place], found: list[Found], config: CorpusConfig, report: IndexReport
) -> None:
    """Report entries of `exclude` that name nothing, perhaps misspelt."""
    names = {place.id for place in places}
    for place, song in zip(places, found, strict=True):
        for stem in song.stems:
            names.update(f"{place.id}/{label}" for label in stem.labels)
            names.update(*(_part_names(place, part) for part in stem.parts))
    for entry in config.exclude:
        if entry not in names:
            report.note(config.path, f"exclude: nothing is called {entry!r}")
