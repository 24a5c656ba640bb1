"""Mixture, submixture and source from a song's stems (paper, sections 2.1 and E.1).

draw_window    which stems are the source, and one start for all; the source sounds if possible
augment        changes to the stems that keep mixture = submixture + source exact
make_triplet   sum the stems at their own rate, resample the two sums, add them
describe       an item's metadata

Latents choose their windows here too (`mge_plugin.data.latents.dataset`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from mge_plugin.config import ConfigError, found
from mge_plugin.data.audio import read_window, resample, rms_db, to_channels
from mge_plugin.data.songs import Song, Stem
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import NUM_TRACKS, Track

MAX_TRIES = 10  # windows drawn for a source that sounds (paper, section E.1)
_MAX_DB = 60  # of a gain, up or down
_MAX_SEED = 2**32 - 1
_MARGIN = 256  # samples of the lower rate read around a window: the resampler uses 128


@dataclass(frozen=True)
class SourceConfig:
    """`source`: which stems of a song are the source."""

    choose: Literal["stems", "labels"] = "stems"  # uniform over a song's; paper: stems
    max_stems: int = 1  # most stems together, their number uniform from 1; paper: 1
    groups: dict[str, Any] = field(default_factory=dict)  # name -> labels that are one source too
    p_absent: float = 0.0  # share of items whose prompt is not in the window; paper: 0

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
    p_polarity: float = 0.0  # share of stems with inverted polarity; paper: 0
    p_swap_channels: float = 0.0  # share of items with left and right swapped, if stereo; paper: 0
    p_other_songs: float = 0.0  # share of items with the submixture from other songs; paper: 0

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


def item_problems(seed: int, epoch_items: int | None) -> Iterator[str]:
    """What is wrong with keys that every dataset of items has."""
    if not 0 <= seed <= _MAX_SEED:
        yield f"seed: expected 0 to {_MAX_SEED}, found {seed}"
    if epoch_items is not None and epoch_items < 1:
        yield f"epoch_items: expected 1 or more, found {epoch_items}"


@dataclass(frozen=True)
class Format:
    """The audio that a model takes."""

    sample_rate: int  # Hz
    samples: int  # window length
    channels: int
    silence_db: float = -60.0  # a window below this RMS is silent, dBFS


class _AnyStem(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def queryable(self) -> bool: ...


class _AnySong(Protocol):
    """A song of audio or of latents."""

    @property
    def path(self) -> Path | str: ...
    @property
    def stems(self) -> Sequence[_AnyStem]: ...
    @property
    def mixture_only(self) -> bool: ...
    @property
    def seconds(self) -> float: ...


_S = TypeVar("_S", bound=_AnySong)


@dataclass(frozen=True)
class Window(Generic[_S]):
    """One choice: these stems of this song are the source, from this sample (or frame) on.

    Without sources the source is absent: `requested` does not sound in the window.
    """

    song: _S
    sources: tuple[int, ...]  # numbers of stems
    start: int
    requested: str | None = None  # what the prompt names, if not the labels of the stems
    mixture: tuple[int, ...] | None = None  # numbers of its stems, if not all

    @property
    def stems(self) -> tuple[int, ...]:
        """The numbers of the stems in the mixture."""
        return tuple(range(len(self.song.stems))) if self.mixture is None else self.mixture


def draw_window(
    song: _S,
    last_start: int,
    sounds: Callable[[int, int], bool],
    rng: np.random.Generator,
    config: SourceConfig,
    labels: Sequence[str] = (),
    mixture_with: Callable[[int | None], tuple[int, ...] | None] | None = None,
) -> Window[_S]:
    """Choose the source, then up to 10 starts until it sounds (paper, section E.1).

    `sounds(stem, start)`: whether a stem, by number, is not silent in the window from `start` on.
    If the source never sounds, the last start is used: a song may rest. An absent source is one of
    `labels`, those of the song's corpus; if all of them may sound, a source is chosen as usual.
    `mixture_with(source)` draws the stems of the mixture, by default all.
    """
    if config.p_absent and not song.mixture_only and rng.random() < config.p_absent:
        start = int(rng.integers(last_start + 1))
        mixture = mixture_with(None) if mixture_with else None
        stems = range(len(song.stems)) if mixture is None else mixture
        sounding = [song.stems[number].label for number in stems if sounds(number, start)]
        absent = _absent_label(sounding, labels, rng)
        if absent is not None:
            return Window(song, (), start, absent, mixture)
    sources, group = _choose_source(song, rng, config)
    mixture = mixture_with(sources[0]) if mixture_with else None
    for _ in range(MAX_TRIES):
        start = int(rng.integers(last_start + 1))
        if any(sounds(number, start) for number in sources):
            break
    return Window(song, sources, start, group, mixture)


def _choose_source(
    song: _AnySong, rng: np.random.Generator, config: SourceConfig
) -> tuple[tuple[int, ...], str | None]:
    """The numbers of the source's stems, and the group's name if they are one.

    Uniform over stems or over labels (and then over the stems of that label); each group that the
    song has counts as one more stem or label. Several stems are never all stems of the song.
    """
    stems = song.stems
    choices = [i for i, stem in enumerate(stems) if stem.queryable]
    choices = choices or list(range(len(stems)))  # a song that is only a mixture
    groups = _groups(song, config)
    labels = sorted({stems[i].label for i in choices})
    number = len(choices) if config.choose == "stems" else len(labels)
    chosen = int(rng.integers(number + len(groups)))
    if chosen >= number:
        name = list(groups)[chosen - number]
        return groups[name], name
    if config.choose == "labels":
        named = [i for i in choices if stems[i].label == labels[chosen]]
        first = named[rng.integers(len(named))]
    else:
        first = choices[chosen]
    most = min(config.max_stems, len(choices), max(1, len(stems) - 1))
    count = int(rng.integers(1, most + 1)) if most > 1 else 1
    others = [i for i in choices if i != first]
    drawn = rng.permutation(len(others))[: count - 1] if count > 1 else ()
    return (first, *(others[i] for i in drawn)), None


def _groups(song: _AnySong, config: SourceConfig) -> dict[str, tuple[int, ...]]:
    """The config's groups of which the song has every label, and something else."""
    sources = [(i, stem.label) for i, stem in enumerate(song.stems) if stem.queryable]
    groups = {
        name: tuple(i for i, label in sources if label in labels)
        for name, labels in config.groups.items()
        if set(labels) <= {label for _, label in sources}
    }
    return {name: stems for name, stems in groups.items() if len(stems) < len(song.stems)}


def _absent_label(
    sounding: Collection[str], labels: Sequence[str], rng: np.random.Generator
) -> str | None:
    """One of `labels` that does not sound in the window; None if all of them may."""
    absent = [label for label in labels if not any(_may_be(label, other) for other in sounding)]
    return absent[rng.integers(len(absent))] if absent else None


def _may_be(label: str, other: str) -> bool:
    """Whether two labels may name one instrument: all words of one are in the other.

    A song's guitar may be an electric guitar, and an electric guitar is a guitar.
    """
    words, others = set(label.split()), set(other.split())
    return words <= others or others <= words


@dataclass(frozen=True)
class _Voice:
    """A stem as it is used in a window."""

    stem: Stem
    track: Track  # SOURCE or SUBMIXTURE
    start: int  # first sample at the model's rate
    gain: float = 1.0  # negative: inverted polarity
    swapped: bool = False  # left and right

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """The stem's samples (channels, samples) with gain and swapped channels."""
        samples = samples[::-1] if self.swapped else samples
        return samples if self.gain == 1.0 else np.float32(self.gain) * samples


def _voices(window: Window[Song]) -> list[_Voice]:
    """Every stem of the window's song, unchanged."""
    sources = () if window.song.mixture_only else window.sources
    return [
        _Voice(stem, Track.SOURCE if number in sources else Track.SUBMIXTURE, window.start)
        for number, stem in enumerate(window.song.stems)
    ]


def augment(
    window: Window[Song],
    config: AugmentConfig,
    songs: Sequence[Song],
    form: Format,
    rng: np.random.Generator,
) -> list[_Voice]:
    """A window's voices with other songs' stems, gains, polarities and sides, as configured."""
    voices = _voices(window)
    mixed = config.p_other_songs > 0 and not window.song.mixture_only
    if mixed and rng.random() < config.p_other_songs:
        voices = [_from_other_song(voice, window, songs, form, rng) for voice in voices]
    swapped = bool(config.p_swap_channels) and rng.random() < config.p_swap_channels
    return [replace(voice, gain=_gain(config, rng), swapped=swapped) for voice in voices]


def _gain(config: AugmentConfig, rng: np.random.Generator) -> float:
    lowest, highest = config.gain_db
    gain = 10 ** (rng.uniform(lowest, highest) / 20) if highest != lowest else 10 ** (lowest / 20)
    return -gain if config.p_polarity and rng.random() < config.p_polarity else gain


def _from_other_song(
    voice: _Voice,
    window: Window[Song],
    songs: Sequence[Song],
    form: Format,
    rng: np.random.Generator,
) -> _Voice:
    """Replace a stem of the submixture by one of another song, from anywhere in it.

    Its label may not be the source's; it is never `other` and never a whole mixture. If 10 songs
    drawn have no such stem, the voice stays as it is.
    """
    requested = {window.song.stems[i].label for i in window.sources}
    requested |= {window.requested or window.song.stems[window.sources[0]].label}
    for _ in range(MAX_TRIES if voice.track == Track.SUBMIXTURE else 0):
        song = songs[rng.integers(len(songs))]
        stems = [s for s in song.sources if not any(_may_be(s.label, name) for name in requested)]
        if song is not window.song and stems:
            start = int(rng.integers(last_start(song, form) + 1))
            return replace(voice, stem=stems[rng.integers(len(stems))], start=start)
    return voice


def last_start(song: Song, form: Format) -> int:
    """The start of the last whole window; 0 in a song that is shorter."""
    return max(0, song.samples(form.sample_rate) - form.samples)


@dataclass(frozen=True)
class Triplet:
    """`audio` (track, channel, sample) float32, mixture = submixture + source exactly.

    `gain` below 1 was applied to all three, since the mixture exceeded full scale.
    """

    window: Window[Song]
    audio: np.ndarray
    labels: dict[Track, tuple[str, ...]]  # of the stems that sound in each track
    gain: float = 1.0


def make_triplet(
    window: Window[Song], form: Format, voices: Sequence[_Voice] | None = None
) -> Triplet:
    """Read every voice (by default the song's own stems) and sum; float32, never clipped.

    Source (silence) and submixture (the mixture) of a song that is only a mixture mean nothing.
    """
    audio = np.zeros((NUM_TRACKS, form.channels, form.samples), dtype=np.float32)
    sums: dict[Track, dict[tuple[int, int], np.ndarray]] = defaultdict(dict)
    labels = defaultdict(set)
    for voice in _voices(window) if voices is None else voices:
        by_rate, sounds = _read_stem(voice.stem, voice.start, form)
        if sounds and not window.song.mixture_only:
            labels[voice.track].add(voice.stem.label)
        total = sums[voice.track]
        for rate, samples in by_rate.items():
            key = (rate, voice.start)
            total[key] = total.get(key, 0) + voice.apply(samples)
    for track, total in sums.items():
        audio[track] = sum(_cut(s, rate, start, form) for (rate, start), s in total.items())
    gain = _below_full_scale(audio)
    labels[Track.MIXTURE] = labels[Track.SUBMIXTURE] | labels[Track.SOURCE]
    return Triplet(window, audio, {track: tuple(sorted(labels[track])) for track in Track}, gain)


def stem_window(stem: Stem, start: int, form: Format) -> np.ndarray:
    """A window (channel, sample) of a stem at the model's rate, zeros outside of it."""
    total = np.zeros((form.channels, form.samples), dtype=np.float32)
    for rate, samples in _read_stem(stem, start, form)[0].items():
        total += _cut(samples, rate, start, form)
    return total


def stem_sounds(stem: Stem, start: int, form: Format) -> bool:
    """Whether a window of a stem is not silent."""
    return _read_stem(stem, start, form)[1]


def _below_full_scale(audio: np.ndarray) -> float:
    """Set the mixture (track 0) to the sum of the others; lower all tracks if it is above 1."""
    mixture, *others = audio
    mixture[:] = sum(others)
    peak = float(np.abs(mixture).max())
    if peak <= 1.0:
        return 1.0
    audio[1:] *= np.float32(1 / peak)
    mixture[:] = sum(others)
    return 1 / peak


class _Span(NamedTuple):
    """What to read of a file, at its own rate, so that a window can be cut out after resampling.

    It starts where a sample of the file and one of the model's fall together: read from elsewhere,
    a window would be up to half a sample off the same window of the resampled file.
    """

    first: int  # of the file's samples
    frames: int
    window: slice  # the window within these, without margins
    skip: int  # samples at the model's rate before the window


def _span(rate: int, start: int, form: Format) -> _Span:
    """The span, at a file's `rate`, of the window that starts at the model's sample `start`."""
    ratio = Fraction(rate, form.sample_rate)  # file's samples for one of the model's
    margin = 0 if ratio == 1 else ceil(_MARGIN * max(Fraction(1), 1 / ratio))
    begin = (start - margin) // ratio.denominator * ratio.denominator
    skip = start - begin
    frames = ceil((skip + form.samples + margin) * ratio)
    window = slice(floor(skip * ratio), ceil((skip + form.samples) * ratio))
    return _Span(int(begin * ratio), frames, window, skip)


def _read_stem(stem: Stem, start: int, form: Format) -> tuple[dict[int, np.ndarray], bool]:
    """The window's span of a stem, summed by rate in Hz, and whether the window sounds.

    Each sum is (channels, samples); it is enough that one of them sounds.
    """
    by_rate: dict[int, np.ndarray] = {}
    for part in stem.read_from:
        span = _span(part.sample_rate, start, form)
        samples = to_channels(read_window(part, span.first, span.frames), form.channels)
        by_rate[part.sample_rate] = by_rate.get(part.sample_rate, 0) + samples
    windows = {rate: _span(rate, start, form).window for rate in by_rate}
    levels = [rms_db(by_rate[rate][:, window]) for rate, window in windows.items()]
    return by_rate, max(levels) > form.silence_db


def _cut(samples: np.ndarray, rate: int, start: int, form: Format) -> np.ndarray:
    """Resample a window's span to the model's rate and cut its margins off."""
    skip = _span(rate, start, form).skip
    return resample(samples, rate, form.sample_rate)[:, skip : skip + form.samples]


def describe(
    window: Window[Any],
    labels: Mapping[Track, tuple[str, ...]],
    source: str | None,
    seconds_start: float,
    template: str,
) -> dict[str, Any]:
    """An item's metadata: its prompts, the `labels` that sound in each track, where it is from.

    The source's prompt names its group, or what is absent. `source` is the path of its first stem.
    """
    song, names = window.song, dict(labels)
    if window.requested is not None and (names[Track.SOURCE] or not window.sources):
        names[Track.SOURCE] = (window.requested,)
    return {
        "prompt": {t.label: label_prompt(names[t], template) for t in Track if names[t]},
        "labels": {track.label: list(labels[track]) for track in Track},
        "path": str(song.path),
        "mixture_only": song.mixture_only,
        "loss_mask": [1, 1, 0] if song.mixture_only else [1, 1, 1],
        "source": source,
        "absent": not window.sources,
        "seconds_start": seconds_start,
        "seconds_total": song.seconds,
    }
