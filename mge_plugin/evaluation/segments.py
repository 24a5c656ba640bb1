"""Which seconds of which songs are judged (paper, section E.1); saved, so that others see the same.

extract   windows in which the wanted stems sound, so many a label; and some that lack the label
add       windows of songs that have all labels, for every split of them into given and wanted
generate  windows of mixtures, the references; compose  the same, asked label by label
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import rms_db
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import MAX_TRIES, Format, stem_window
from mge_plugin.files import write_file

_FORMAT = 1  # of the file
_ABSENT_SHARE = 0.25  # of a label's segments, as many more from songs without it


@dataclass(frozen=True)
class Segment:
    """A window of a song, what is asked of it and what is given."""

    id: str
    task: str
    corpus: str
    song: str
    start: int  # samples at `sample_rate`
    samples: int
    sample_rate: int  # Hz
    wanted: tuple[str, ...]  # labels, in the order in which they are asked for
    given: tuple[str, ...] = ()  # labels that are given; of extract all of the song's
    absent: bool = False  # whether the song lacks what is wanted

    @property
    def group(self) -> str:
        """The column of a table: what is wanted; of music from nothing the test set, one column."""
        return self.corpus if self.task in ("generate", "compose") else "+".join(self.wanted)


@dataclass(frozen=True)
class Heard:
    """A segment's audio, all (channels, samples)."""

    segment: Segment
    mixture: np.ndarray
    given: np.ndarray
    truth: np.ndarray  # of what is wanted, silence if it is absent


@dataclass(frozen=True)
class Estimate:
    """What a system made of a segment, all (channels, samples)."""

    audio: np.ndarray  # of extract and add what is wanted, else the mixture
    rest: np.ndarray | None = None  # of extract all else in the mixture, if the system makes it


def draw_segments(
    task: str,
    corpora: Sequence[Corpus],
    form: Format,
    labels: Sequence[str],
    count: int,
    seed: int,
) -> list[Segment]:
    """`count` segments a group, fewer where a corpus has not so many that sound."""
    drawing = {"extract": _extract, "add": _add}.get(task, _whole)
    segments = []
    for corpus in corpora:
        rng = np.random.default_rng(seed)
        segments += drawing(_Drawing(task, corpus, form, labels, count, rng))
    if not segments:
        raise ConfigError(f"no segments: none of {', '.join(labels)} sounds in any song")
    return segments


def save_segments(segments: Sequence[Segment], path: Path) -> None:
    """As JSON, whole or not at all."""
    content = {"format": _FORMAT, "segments": [asdict(segment) for segment in segments]}
    write_file(path, json.dumps(content, indent=1).encode())


def load_segments(path: Path) -> list[Segment]:
    """What `save_segments` wrote."""
    content = read_json(path)
    if content.get("format") != _FORMAT:
        raise ConfigError(f"{path}: format: expected {_FORMAT}, found {content.get('format')!r}")
    try:
        return [_parsed(entry) for entry in content["segments"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a list of segments ({error})") from error


def listen(segment: Segment, song: Song, channels: int) -> Heard:
    """Read a segment from its song; the mixture is the sum of all stems."""
    form = Format(segment.sample_rate, segment.samples, channels)
    parts = {stem: stem_window(stem, segment.start, form) for stem in song.stems}
    silence = np.zeros((channels, segment.samples), dtype=np.float32)

    def total(labels: Sequence[str]) -> np.ndarray:
        return sum((a for s, a in parts.items() if s.label in labels), start=silence)

    everything = total([stem.label for stem in song.stems])
    wanted = silence if segment.absent else total(segment.wanted)
    given = total(segment.given) if segment.task == "add" else everything
    if segment.task == "add":
        everything = given + wanted
    return Heard(segment, everything, given, wanted)


def _extract(draw: "_Drawing") -> Iterator[Segment]:
    for label in draw.labels:
        having = [s for s in draw.songs if label in _labels(s) and len(s.stems) > 1]
        lacking = [s for s in draw.songs if label not in _labels(s)]
        yield from draw.segments(label, having, (label,), (label,))
        rest = replace(draw, count=round(draw.count * _ABSENT_SHARE))
        yield from rest.segments(f"no {label}", lacking, None, (label,), absent=True)


def _add(draw: "_Drawing") -> Iterator[Segment]:
    songs = [s for s in draw.songs if set(draw.labels) <= _labels(s)]
    for size in range(1, len(draw.labels)):
        for wanted in combinations(draw.labels, size):
            given = tuple(label for label in draw.labels if label not in wanted)
            yield from draw.segments("+".join(wanted), songs, given, wanted, given=given)


def _whole(draw: "_Drawing") -> Iterator[Segment]:
    for segment in draw.segments("mixture", draw.songs, None, tuple(draw.labels)):
        song = next(s for s in draw.songs if s.id == segment.song)
        own = tuple(label for label in draw.labels if label in _labels(song))
        yield replace(segment, wanted=own) if own and draw.task == "compose" else segment


@dataclass(frozen=True)
class _Drawing:
    """What segments are drawn from."""

    task: str
    corpus: Corpus
    form: Format
    labels: Sequence[str]
    count: int
    rng: np.random.Generator

    @property
    def songs(self) -> Sequence[Song]:
        """Those of the corpus."""
        return self.corpus.songs

    def segments(
        self,
        kind: str,
        songs: Sequence[Song],
        sounding: Sequence[str] | None,
        wanted: tuple[str, ...],
        **more: Any,
    ) -> Iterator[Segment]:
        """`count` windows of `songs` in which these labels sound (None is anything)."""
        for i, (song, start) in enumerate(_windows(songs, sounding, self)):
            yield Segment(
                f"{self.task}/{self.corpus.config.id}/{kind}/{i:04}",
                self.task,
                self.corpus.config.id,
                song.id,
                start,
                self.form.samples,
                self.form.sample_rate,
                wanted,
                **more,
            )


def _windows(
    songs: Sequence[Song], labels: Sequence[str] | None, draw: _Drawing
) -> Iterator[tuple[Song, int]]:
    """Windows in which the labels (all stems, if None) sound, some tries for each."""
    form, rng = draw.form, draw.rng
    for _ in range(draw.count if songs else 0):
        for _ in range(MAX_TRIES):
            song = songs[rng.integers(len(songs))]
            last = max(0, song.samples(form.sample_rate) - form.samples)
            start = int(rng.integers(last + 1))
            heard = [s for s in song.stems if labels is None or s.label in labels]
            total = sum(stem_window(stem, start, form) for stem in heard)
            if rms_db(total) > form.silence_db:
                yield song, start
                break


def _labels(song: Song) -> set[str]:
    return {stem.label for stem in song.stems}


def _parsed(entry: dict) -> Segment:
    lists = {name: tuple(entry[name]) for name in ("wanted", "given")}
    return Segment(**entry | lists)
