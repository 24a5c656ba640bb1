"""Songs that are in two places: in two splits of one corpus, or in two corpora of one config.

A song is the same as another if both are made from one MIDI file (Slakh2100), have the same artist
and title, or have the same length and sound the same in the first seconds. 46 songs of MUSDB18 are
in MedleyDB too, some of them in MUSDB18's validation split.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import AudioError
from mge_plugin.data.corpora.reader import Corpus, CorpusConfig, Found, Place
from mge_plugin.data.songs import IndexReport, Song
from mge_plugin.data.triplets import Format, stem_window

_SAME_LENGTH = 0.05  # seconds; lossy formats change a song's length by a little
_LETTERS = 10  # of a title; shorter ones, such as Track00001, name no song
_COMPARED = Format(8000, 80_000, 1)  # the first 10 seconds are compared
_FRAME = 800  # samples of a frame, 0.1 s
_BANDS = (4, 16, 40, 100, 200, 401)  # bins of the spectra of frames, 10 Hz each
_ALIKE = 0.95  # correlation of two songs' spectra over time


def without_split_duplicates(
    chosen: list[tuple[Place, Found]],
    others: list[tuple[Place, Found]],
    config: CorpusConfig,
    report: IndexReport,
) -> list[tuple[Place, Found]]:
    """Report, or leave out, songs that are made from the same MIDI file as one of another split."""
    origins = {found.origin: place for place, found in reversed(others) if found.origin}
    leaks = {
        place.path: f"{place.path} and {origins[found.origin].path}"
        for place, found in chosen
        if found.origin in origins
    }
    reason = "song whose MIDI file (UUID) is in another split too"
    _apply(config, report, list(leaks.values()), reason)
    if config.on_duplicates != "leave_out":
        return chosen
    return [(place, found) for place, found in chosen if place.path not in leaks]


def without_corpus_duplicates(corpora: Sequence[Corpus]) -> list[Corpus]:
    """Report, or leave out, songs of each corpus that another has: before it, or in other splits.

    `on_duplicates` of the corpus decides. The same corpus listed twice raises ConfigError.
    """
    listed: dict[tuple, str] = {}
    for config in (corpus.config for corpus in corpora):
        used = (config.split, config.labels, config.exclude_labels, config.mixture_only)
        key = (Path(config.path).expanduser().resolve(), config.type, *used)
        if key in listed:
            raise ConfigError(f"datasets: {listed[key]!r} and {config.id!r} are the same corpus")
        listed[key] = config.id
    return [_checked(number, corpora) for number in range(len(corpora))]


def _checked(number: int, corpora: Sequence[Corpus]) -> Corpus:
    corpus = corpora[number]
    same: dict[Path, str] = {}
    for place, other in enumerate(corpora):
        used = other.songs if place < number else ()
        if place != number:
            same |= dict(_same_songs(corpus, {**other.unused, **titles(used)}, used))
    places = [f"{path} and {other}" for path, other in same.items()]
    _apply(corpus.config, corpus.report, places, "song that another corpus has too")
    if corpus.config.on_duplicates != "leave_out" or not same:
        return corpus
    songs = tuple(song for song in corpus.songs if song.path not in same)
    if not songs:
        raise ConfigError(f"datasets: {corpus.config.id!r} has only songs of other corpora")
    return replace(corpus, songs=songs)


def _apply(config: CorpusConfig, report: IndexReport, places: list[str], reason: str) -> None:
    if places and config.on_duplicates == "error":
        raise ConfigError(f"datasets: {config.id!r}: {len(places)} times: {reason}: {places[0]}")
    add = report.leave_out if config.on_duplicates == "leave_out" else report.note
    for place in places:
        add(place, reason)


def _same_songs(
    corpus: Corpus, by_title: Mapping[str, str], others: Sequence[Song]
) -> Iterator[tuple[Path, str]]:
    """The songs of a corpus, by path, that are among others, with the other's path."""
    lengths = np.array([song.seconds for song in others])
    for song in corpus.songs:
        if (path := by_title.get(_title(song.id) or "")) is not None:
            yield song.path, path
            continue
        near = np.flatnonzero(np.abs(lengths - song.seconds) < _SAME_LENGTH)
        if (other := next((others[i] for i in near if _alike(song, others[i])), None)) is not None:
            yield song.path, str(other.path)


def _title(song_id: str) -> str | None:
    """Artist and title without accents, spaces and signs; None if a corpus has mere numbers."""
    plain = unicodedata.normalize("NFKD", song_id).casefold()
    letters = re.sub(r"[\W_]+", "", "".join(c for c in plain if not unicodedata.combining(c)))
    return letters if sum(c.isalpha() for c in letters) >= _LETTERS else None


def titles(places: Sequence[Place | Song]) -> dict[str, str]:
    """The paths of songs by title, of those that have one."""
    named = {_title(place.id): str(place.path) for place in places}
    return {title: path for title, path in named.items() if title is not None}


def _alike(one: Song, other: Song) -> bool:
    """Whether two songs sound the same in the first seconds, whatever their level."""
    try:
        first, second = _spectra(one), _spectra(other)
    except AudioError:
        return False
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return bool(norm) and float((first * second).sum() / norm) > _ALIKE


def _spectra(song: Song) -> np.ndarray:
    """Log powers (frame, band) of the start of a song's mixture, without their means."""
    audio = np.sum([stem_window(stem, 0, _COMPARED) for stem in song.stems], axis=0)[0]
    spectra = np.abs(np.fft.rfft(audio.reshape(-1, _FRAME))) ** 2
    bands = np.stack([spectra[:, a:b].sum(axis=1) for a, b in pairwise(_BANDS)], axis=1)
    logs = np.log(bands + 1e-6)
    return logs - logs.mean(axis=0)
