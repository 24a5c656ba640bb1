"""The segments that are scored (paper, section E.1): which seconds of which songs, saved as JSON.

extract   windows in which the label sounds, `count` per label; and some from songs without it
add       given "labels": windows of songs that have all labels, for every split of the labels into
          given and wanted; given "rest": windows in which the label sounds, all other stems given
generate  windows of mixtures, the references; compose  the same, with the song's labels in order
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.data.audio import rms_db
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import MAX_TRIES, Format, stem_window
from mge_plugin.evaluation import SCORED_TASKS
from mge_plugin.files import write_json

_FORMAT = 1  # of the file
_ABSENT_SHARE = 0.25  # segments from songs without the label, for each segment with it
_LONGEST = 3600  # seconds
_RATES = (1000, 384000)  # Hz


@dataclass(frozen=True)
class Segment:
    """A window of a song, its target labels and the given ones. Fields are keys of the JSON."""

    id: str
    task: str
    corpus: str
    song: str
    start: int  # samples at `sample_rate`
    samples: int
    sample_rate: int  # Hz
    wanted: tuple[str, ...]  # target labels, in the order of their prompts
    given: tuple[str, ...] = ()  # labels that are given; for extract the song's mixture is
    absent: bool = False  # whether the song has no stem of the target label

    def __post_init__(self) -> None:
        problems = [
            ("id", self.id, "a relative path", _is_relative(self.id)),
            ("task", self.task, f"one of {', '.join(SCORED_TASKS)}", self.task in SCORED_TASKS),
            ("start", self.start, "0 to 2^40", 0 <= self.start <= 2**40),
            ("sample_rate", self.sample_rate, "{} to {} Hz".format(*_RATES), self._has_rate()),
            ("samples", self.samples, f"up to {_LONGEST} seconds", self._has_length()),
            ("wanted", self.wanted, "one label or more", all(self.wanted) and self.wanted),
        ]
        if wrong := [f"{k}: expected {e}, found {v!r}" for k, v, e, good in problems if not good]:
            raise ConfigError(*wrong)

    def _has_rate(self) -> bool:
        return _RATES[0] <= self.sample_rate <= _RATES[1]

    def _has_length(self) -> bool:
        return 0 < self.samples <= _LONGEST * self.sample_rate

    @property
    def group(self) -> str:
        """The column of a table: the target labels; for generate and compose the corpus."""
        return self.corpus if self.task in ("generate", "compose") else "+".join(self.wanted)


def _is_relative(path: str) -> bool:
    """Whether a segment's id names a file below a folder."""
    return path.isprintable() and not {"", ".", ".."} & set(path.split("/"))


@dataclass(frozen=True)
class Excerpt:
    """A segment's audio, all (channels, samples)."""

    segment: Segment
    mixture: np.ndarray
    given: np.ndarray
    truth: np.ndarray  # the target stems, silence if they are absent


@dataclass(frozen=True)
class Estimate:
    """A system's output for a segment, all (channels, samples)."""

    audio: np.ndarray  # extract and add: the target stems; generate and compose: the mixture
    rest: np.ndarray | None = None  # extract: all else in the mixture, if the system makes it


def draw_segments(
    task: str,
    corpora: Sequence[Corpus],
    form: Format,
    labels: Sequence[str],
    count: int,
    seed: int,
    given: str = "labels",
) -> list[Segment]:
    """Draw `count` segments per group, fewer where a corpus has fewer that sound."""
    if task == "add" and given == "labels" and len(labels) < 2:
        raise ConfigError(
            "add: 2 labels or more are needed to give some and add the others, found "
            f"{', '.join(labels)}; to give all other stems of each song: --given rest"
        )
    name = "rest" if (task, given) == ("add", "rest") else task
    drawing = {"extract": _extract, "add": _add, "rest": _rest}.get(name, _whole)
    segments: list[Segment] = []
    for corpus in corpora:
        rng = np.random.default_rng(seed)
        segments += drawing(_Drawing(task, corpus, form, labels, count, rng))
    if not segments:
        needed = {
            "extract": "a stem of one of {} that sounds",
            "add": "stems of all of {} that sound",
            "rest": "a stem of one of {} that sounds, and another stem",
        }.get(name, "sound")
        names = ", ".join(corpus.config.id for corpus in corpora)
        raise ConfigError(
            f"{task}: no segments: no song of {names} has {needed.format(', '.join(labels))}"
        )
    return segments


def save_segments(segments: Sequence[Segment], path: Path) -> None:
    """Write the segments as JSON, whole or not at all."""
    content = {"format": _FORMAT, "segments": [asdict(segment) for segment in segments]}
    write_json(path, content, 1)


def load_segments(path: Path) -> list[Segment]:
    """Read what `save_segments` wrote; all that is wrong with it is in one ConfigError."""
    content = read_json(path)
    if content.get("format") != _FORMAT:
        raise ConfigError(f"{path}: format: expected {_FORMAT}, found {content.get('format')!r}")
    entries = content.get("segments")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: segments: expected a list of segments")
    segments = [parse_section(Segment, e, f"{path}: segments[{i}]") for i, e in enumerate(entries)]
    if len({segment.id for segment in segments}) < len(segments):
        raise ConfigError(f"{path}: segments: an id occurs twice")
    return segments


def read_excerpt(segment: Segment, song: Song, channels: int) -> Excerpt:
    """Read a segment from its song; the mixture is the sum of all stems."""
    form = Format(segment.sample_rate, segment.samples, channels)
    parts = {stem: stem_window(stem, segment.start, form) for stem in song.stems}
    silence = np.zeros((channels, segment.samples), dtype=np.float32)

    def total(labels: Sequence[str]) -> np.ndarray:
        return sum((a for s, a in parts.items() if s.label in labels), start=silence)

    everything = total([stem.label for stem in song.stems])
    truth = silence if segment.absent else total(segment.wanted)
    if segment.task != "add":
        return Excerpt(segment, everything, everything, truth)
    given = total(segment.given)
    return Excerpt(segment, given + truth, given, truth)


def segment_seed(segment: str, seed: int) -> int:
    """A seed of the segment's id, so that its noise does not depend on the other segments."""
    numbers = np.frombuffer(segment.encode(), dtype=np.uint8)
    return int(np.random.SeedSequence([seed, *numbers.tolist()]).generate_state(1, np.uint32)[0])


def _extract(draw: "_Drawing") -> Iterator[Segment]:
    for label in draw.labels:
        lacking = [s for s in draw.corpus.songs if label not in _labels(s)]
        yield from draw.segments(label, draw.songs_with(label), (label,), (label,))
        rest = replace(draw, count=round(draw.count * _ABSENT_SHARE))
        yield from rest.segments(f"no {label}", lacking, None, (label,), absent=True)


def _add(draw: "_Drawing") -> Iterator[Segment]:
    songs = [s for s in draw.corpus.songs if set(draw.labels) <= _labels(s)]
    for size in range(1, len(draw.labels)):
        for wanted in combinations(draw.labels, size):
            given = tuple(label for label in draw.labels if label not in wanted)
            yield from draw.segments("+".join(wanted), songs, given, wanted, given=given)


def _rest(draw: "_Drawing") -> Iterator[Segment]:
    songs = {song.id: song for song in draw.corpus.songs}
    for label in draw.labels:
        others = [s for s in draw.songs_with(label) if _labels(s) != {label}]
        for segment in draw.segments(label, others, (label,), (label,)):
            given = tuple(sorted(_labels(songs[segment.song]) - {label}))
            yield replace(segment, given=given)


def _whole(draw: "_Drawing") -> Iterator[Segment]:
    songs = {song.id: song for song in draw.corpus.songs}
    for segment in draw.segments("mixture", draw.corpus.songs, None, tuple(draw.labels)):
        own = tuple(label for label in draw.labels if label in _labels(songs[segment.song]))
        yield replace(segment, wanted=own) if own and draw.task == "compose" else segment


@dataclass(frozen=True)
class _Drawing:
    """What the segments of one corpus are drawn from."""

    task: str
    corpus: Corpus
    form: Format
    labels: Sequence[str]
    count: int
    rng: np.random.Generator

    def songs_with(self, label: str) -> list[Song]:
        """Songs that have a stem of the label, and another."""
        return [s for s in self.corpus.songs if label in _labels(s) and len(s.stems) > 1]

    def segments(
        self,
        kind: str,
        songs: Sequence[Song],
        sounding: Sequence[str] | None,
        wanted: tuple[str, ...],
        **more: Any,
    ) -> Iterator[Segment]:
        """`count` windows of `songs` in which these labels sound (None is anything)."""
        corpus, form = self.corpus.config.id, self.form
        for i, (song, start) in enumerate(_windows(songs, sounding, self)):
            name = f"{self.task}/{corpus}/{kind}/{i:04}"
            place = (corpus, song.id, start, form.samples, form.sample_rate)
            yield Segment(name, self.task, *place, wanted, **more)


def _windows(
    songs: Sequence[Song], labels: Sequence[str] | None, draw: _Drawing
) -> Iterator[tuple[Song, int]]:
    """Windows in which the labels (all stems, if None) sound, with some tries for each."""
    form, rng = draw.form, draw.rng
    for _ in range(draw.count if songs else 0):
        for _ in range(MAX_TRIES):
            song = songs[rng.integers(len(songs))]
            last = max(0, song.samples(form.sample_rate) - form.samples)
            start = int(rng.integers(last + 1))
            stems = [s for s in song.stems if labels is None or s.label in labels]
            total = np.sum([stem_window(stem, start, form) for stem in stems], axis=0)
            if rms_db(total) > form.silence_db:
                yield song, start
                break


def _labels(song: Song) -> set[str]:
    return {stem.label for stem in song.stems}
