"""Mixture, submixture and source from a song's stems (paper, sections 2.1 and E.1).

choice.draw_window   the stems of the source, one offset for all, the source not silent if possible
voices               each stem as it will sound; augment.augment may change them
make_triplet         sum the stems at their own rate, resample the two sums, add them

What a model takes of a song.

How triplets are drawn: the sections `source` and `augment` of a dataset config.

Which stems are the source of a window, and where it starts (paper, section E.1).

Changes to the stems of a window that keep mixture = submixture + source exact.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any, Literal

import numpy as np

from mge_plugin.config import ConfigError, found
from mge_plugin.data.audio import read_window, resample, rms_db, to_channels
from mge_plugin.data.songs import Song, Stem
from mge_plugin.tracks import NUM_TRACKS, Track


@dataclass(frozen=True)
class Asked:
    """As SAT's scripts say it."""

    sample_size: int  # samples of a window
    sample_rate: int  # Hz
    audio_channels: int


_MAX_DB = 60  # of a gain, up or down
_MAX_SEED = 2**32 - 1


def item_problems(seed: int, epoch_items: int | None) -> Iterator[str]:
    """What is wrong with what every dataset of items has."""
    if not 0 <= seed <= _MAX_SEED:
        yield f"seed: expected 0 to {_MAX_SEED}, found {seed}"
    if epoch_items is not None and epoch_items < 1:
        yield f"epoch_items: expected 1 or more, found {epoch_items}"


@dataclass(frozen=True)
class SourceConfig:
    """`source`: what is asked."""

    choose: Literal["stems", "labels"] = "stems"  # uniform over a song's; paper: stems
    max_stems: int = 1  # most stems together, their number uniform from 1; paper: 1
    groups: dict[str, Any] = field(default_factory=dict)  # name -> labels that are one source too
    p_absent: float = 0.0  # share of items asked for what the window does not contain; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if self.max_stems < 1:
            yield f"max_stems: expected 1 or more, found {self.max_stems}"
        if not 0.0 <= self.p_absent <= 1.0:
            yield f"p_absent: expected 0 to 1, found {self.p_absent}"
        for name, labels in self.groups.items():
            is_list = isinstance(labels, (list, tuple))
            if not is_list or len(labels) < 2 or not all(isinstance(x, str) for x in labels):
                yield f"groups.{name}: expected a list of 2 labels or more, found {found(labels)}"


@dataclass(frozen=True)
class AugmentConfig:
    """`augment`: changes that keep mixture = submixture + source exact; all off by default."""

    gain_db: tuple[float, ...] = (0.0, 0.0)  # each stem's gain, uniform between these; paper: 0
    p_polarity: float = 0.0  # share of stems turned upside down; paper: 0
    p_swap_channels: float = 0.0  # share of items with left and right swapped, if stereo; paper: 0
    p_other_songs: float = 0.0  # share of items whose submixture is of other songs' stems; paper: 0

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if len(self.gain_db) != 2 or not -_MAX_DB <= self.gain_db[0] <= self.gain_db[1] <= _MAX_DB:
            expected = f"[lowest, highest] between -{_MAX_DB} and {_MAX_DB}"
            yield f"gain_db: expected {expected}, found {list(self.gain_db)}"
        for name in ("p_polarity", "p_swap_channels", "p_other_songs"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                yield f"{name}: expected 0 to 1, found {getattr(self, name)}"

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self != AugmentConfig()


MAX_TRIES = 10  # windows drawn for a source that sounds (paper, section E.1)
_MARGIN = 256  # samples of the lower rate read around a window: the resampler looks 128 far


@dataclass(frozen=True)
class Format:
    """What the model takes."""

    sample_rate: int  # Hz
    samples: int  # window length
    channels: int
    silence_db: float = -60.0  # a window below this RMS is silent, dBFS


@dataclass(frozen=True)
class Window:
    """One choice: these stems of this song, from this sample at the model's rate.

    Without stems the source is absent: `asked` does not sound in the window.
    """

    song: Song
    sources: tuple[Stem, ...]
    start: int
    asked: str | None = None  # what the source is called, if not by its stems' labels


@dataclass(frozen=True)
class _Voice:
    """A stem as it sounds in a window."""

    stem: Stem
    track: Track  # SOURCE or SUBMIXTURE
    start: int  # first sample at the model's rate
    gain: float = 1.0  # below 0 it is turned upside down
    swapped: bool = False  # left and right

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """The voice's samples (channels, samples) from the stem's."""
        samples = samples[::-1] if self.swapped else samples
        return samples if self.gain == 1.0 else np.float32(self.gain) * samples


@dataclass(frozen=True)
class Triplet:
    """`audio` (track, channel, sample) float32, mixture = submixture + source exactly.

    `gain` below 1 was put on all three, since the mixture went over full scale.
    """

    window: Window
    audio: np.ndarray
    labels: dict[Track, tuple[str, ...]]  # what sounds in each track
    gain: float = 1.0


@dataclass(frozen=True)
class _Span:
    """What to read of a file, at its own rate, so that a window can be cut out after resampling.

    It starts where a sample of the file and one of the model's fall together: read from elsewhere,
    a window would lie up to half a sample off the same window of the resampled file.
    """

    first: int  # of the file's samples
    frames: int
    window: slice  # the window within these, without margins
    skip: int  # samples at the model's rate before the window

    @classmethod
    def of(cls, rate: int, start: int, form: Format) -> "_Span":
        """The span at a file's `rate` of the window that starts at the model's sample `start`."""
        ratio = Fraction(rate, form.sample_rate)  # file's samples for one of the model's
        margin = 0 if ratio == 1 else ceil(_MARGIN * max(1, 1 / ratio))
        begin = (start - margin) // ratio.denominator * ratio.denominator
        skip = start - begin
        frames = ceil((skip + form.samples + margin) * ratio)
        window = slice(floor(skip * ratio), ceil((skip + form.samples) * ratio))
        return cls(int(begin * ratio), frames, window, skip)


def voices(window: Window) -> list[_Voice]:
    """Every stem of the window's song, unchanged."""
    sources = () if window.song.mixture_only else window.sources
    return [
        _Voice(stem, Track.SOURCE if stem in sources else Track.SUBMIXTURE, window.start)
        for stem in window.song.stems
    ]


def make_triplet(window: Window, form: Format, heard: Sequence[_Voice] | None = None) -> Triplet:
    """Read every voice by seeking (the window's own if not said); sums are float32, never clipped.

    Of a mixture-only song, source (silence) and submixture (the mixture) mean nothing.
    """
    audio = np.zeros((NUM_TRACKS, form.channels, form.samples), dtype=np.float32)
    sums: dict[Track, dict[tuple[int, int], np.ndarray]] = defaultdict(dict)
    labels = defaultdict(set)
    for voice in voices(window) if heard is None else heard:
        by_rate, sounds = _read_stem(voice.stem, voice.start, form)
        if sounds and not window.song.mixture_only:
            labels[voice.track].add(voice.stem.label)
        total = sums[voice.track]
        for rate, samples in by_rate.items():
            key = (rate, voice.start)
            total[key] = total.get(key, 0) + voice.apply(samples)
    for track, total in sums.items():
        audio[track] = sum(cut(s, rate, start, form) for (rate, start), s in total.items())
    gain = _below_full_scale(audio)
    labels[Track.MIXTURE] = labels[Track.SUBMIXTURE] | labels[Track.SOURCE]
    return Triplet(window, audio, {track: tuple(sorted(labels[track])) for track in Track}, gain)


def _below_full_scale(audio: np.ndarray) -> float:
    """Set the mixture (track 0) to the sum of the others, all of them quieter if it is above 1."""
    mixture, *others = audio
    mixture[:] = sum(others)
    peak = float(np.abs(mixture).max())
    if peak <= 1.0:
        return 1.0
    audio[1:] *= np.float32(1 / peak)
    mixture[:] = sum(others)
    return 1 / peak


def _read_stem(stem: Stem, start: int, form: Format) -> tuple[dict[int, np.ndarray], bool]:
    """The window's span of a stem, summed by rate, and whether the window sounds.

    By rate in Hz: (channels, samples). Of rates that differ, one that sounds is enough.
    """
    by_rate: dict[int, np.ndarray] = {}
    for part in stem.read_from:
        span = _Span.of(part.sample_rate, start, form)
        samples = read_window(part.path, span.first, span.frames, part.stream)
        samples = to_channels(samples, form.channels)
        by_rate[part.sample_rate] = by_rate.get(part.sample_rate, 0) + samples
    windows = {rate: _Span.of(rate, start, form).window for rate in by_rate}
    levels = [rms_db(by_rate[rate][:, window]) for rate, window in windows.items()]
    return by_rate, max(levels) > form.silence_db


def stem_window(stem: Stem, start: int, form: Format) -> np.ndarray:
    """A window (channel, sample) of a stem at the model's rate, zeros outside of it."""
    total = np.zeros((form.channels, form.samples), dtype=np.float32)
    for rate, samples in _read_stem(stem, start, form)[0].items():
        total += cut(samples, rate, start, form)
    return total


def cut(samples: np.ndarray, rate: int, start: int, form: Format) -> np.ndarray:
    """Resample a window's span to the model's rate and cut its margins off."""
    skip = _Span.of(rate, start, form).skip
    return resample(samples, rate, form.sample_rate)[:, skip : skip + form.samples]


_PAPER = SourceConfig()


def draw_window(
    song: Song,
    form: Format,
    rng: np.random.Generator,
    config: SourceConfig = _PAPER,
    labels: Sequence[str] = (),
) -> Window:
    """Choose the source, then up to 10 offsets until it sounds.

    If it never does, the last offset stands: a song may rest. An absent source is one of `labels`,
    those of the song's corpus; where all of them sound the source is chosen as ever.
    """
    last_start = max(0, song.samples(form.sample_rate) - form.samples)
    if config.p_absent and not song.mixture_only and rng.random() < config.p_absent:
        start = int(rng.integers(last_start + 1))
        absent = absent_label(_sounding_labels(song, start, form), labels, rng)
        if absent is not None:
            return Window(song, (), start, absent)
    sources, group = choose_source(song, rng, config)
    for _ in range(MAX_TRIES):
        start = int(rng.integers(last_start + 1))
        if any(_read_stem(stem, start, form)[1] for stem in sources):
            break
    return Window(song, sources, start, group)


def choose_source(
    song: Song, rng: np.random.Generator, config: SourceConfig = _PAPER
) -> tuple[tuple[Stem, ...], str | None]:
    """The stems of the source, and the group's name if they are one.

    Uniform over stems or over labels (and then over the stems of that label); the groups that a
    song has count as one more stem or label each. More than one stem never takes all.
    """
    choices = song.sources or song.stems  # of a mixture alone nothing can be asked
    groups = _groups(song, config)
    labels = sorted({stem.label for stem in choices})
    number = len(choices) if config.choose == "stems" else len(labels)
    chosen = int(rng.integers(number + len(groups)))
    if chosen >= number:
        name = list(groups)[chosen - number]
        return groups[name], name
    if config.choose == "labels":
        named = [stem for stem in choices if stem.label == labels[chosen]]
        first = named[rng.integers(len(named))]
    else:
        first = choices[chosen]
    return _with_others(first, choices, song, rng, config.max_stems), None


def _groups(song: Song, config: SourceConfig) -> dict[str, tuple[Stem, ...]]:
    """The config's groups whose every label the song has, unless they are all of it."""
    groups = {
        name: tuple(stem for stem in song.sources if stem.label in labels)
        for name, labels in config.groups.items()
        if set(labels) <= {stem.label for stem in song.sources}
    }
    return {name: stems for name, stems in groups.items() if len(stems) < len(song.stems)}


def _with_others(
    first: Stem, choices: Sequence[Stem], song: Song, rng: np.random.Generator, most: int
) -> tuple[Stem, ...]:
    """The stem and others of the song, together up to `most`, a number uniform from 1."""
    most = min(most, len(choices), max(1, len(song.stems) - 1))
    count = int(rng.integers(1, most + 1)) if most > 1 else 1
    others = [stem for stem in choices if stem != first]
    drawn = rng.permutation(len(others))[: count - 1] if count > 1 else ()
    return (first, *(others[i] for i in drawn))


def _sounding_labels(song: Song, start: int, form: Format) -> list[str]:
    """The labels of the stems that sound in the window from `start` on."""
    return [stem.label for stem in song.stems if _read_stem(stem, start, form)[1]]


def absent_label(
    sounding: Collection[str], labels: Sequence[str], rng: np.random.Generator
) -> str | None:
    """One of `labels` that does not sound in the window; None if all of them may."""
    absent = [label for label in labels if not any(_may_be(label, heard) for heard in sounding)]
    return absent[rng.integers(len(absent))] if absent else None


def _may_be(label: str, other: str) -> bool:
    """Whether two labels may name one instrument: all words of one are in the other.

    A song's guitar may be an electric guitar, and an electric guitar is a guitar.
    """
    words, others = set(label.split()), set(other.split())
    return words <= others or others <= words


def augment(
    window: Window,
    config: AugmentConfig,
    songs: Sequence[Song],
    form: Format,
    rng: np.random.Generator,
) -> list[_Voice]:
    """A window's voices with other songs' stems, gains, polarities and sides, as configured."""
    heard = voices(window)
    mixed = config.p_other_songs > 0 and not window.song.mixture_only
    if mixed and rng.random() < config.p_other_songs:
        heard = [_from_elsewhere(voice, window, songs, form, rng) for voice in heard]
    swapped = bool(config.p_swap_channels) and rng.random() < config.p_swap_channels
    return [replace(voice, gain=_gain(config, rng), swapped=swapped) for voice in heard]


def _gain(config: AugmentConfig, rng: np.random.Generator) -> float:
    lowest, highest = config.gain_db
    gain = 10 ** (rng.uniform(lowest, highest) / 20) if highest != lowest else 10 ** (lowest / 20)
    return -gain if config.p_polarity and rng.random() < config.p_polarity else gain


def _from_elsewhere(
    voice: _Voice, window: Window, songs: Sequence[Song], form: Format, rng: np.random.Generator
) -> _Voice:
    """A stem of the submixture becomes one of another song, from anywhere in it.

    Only one of which it is known that it is no instrument that is asked: never `other`, never a
    whole mixture. Where 10 songs drawn have none the voice stays as it is.
    """
    asked = {stem.label for stem in window.sources} | {window.asked} - {None}
    for _ in range(MAX_TRIES if voice.track == Track.SUBMIXTURE else 0):
        song = songs[rng.integers(len(songs))]
        stems = [s for s in song.sources if not any(_may_be(s.label, label) for label in asked)]
        if song is not window.song and stems:
            last_start = max(0, song.samples(form.sample_rate) - form.samples)
            start = int(rng.integers(last_start + 1))
            return replace(voice, stem=stems[rng.integers(len(stems))], start=start)
    return voice
