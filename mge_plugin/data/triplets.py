"""Mixture, submixture and source from a song's stems (paper, sections 2.1 and E.1).

choice.draw_window   the stems of the source, one offset for all, the source not silent if possible
voices               each stem as it will sound; augment.augment may change them
make_triplet         sum the stems at their own rate, resample the two sums, add them
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from mge_plugin.data.audio import read_window, resample, rms_db, to_channels
from mge_plugin.data.songs import Song, Stem
from mge_plugin.tracks import NUM_TRACKS, Track

MAX_TRIES = 10  # windows drawn for a source that sounds (paper, section E.1)
MARGIN = 256  # samples of the lower rate read around a window: the resampler looks 128 far


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
class Voice:
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
class Span:
    """What to read of a file, at its own rate, so that a window can be cut out after resampling.

    It starts where a sample of the file and one of the model's fall together: read from elsewhere,
    a window would lie up to half a sample off the same window of the resampled file.
    """

    first: int  # of the file's samples
    frames: int
    window: slice  # the window within these, without margins
    skip: int  # samples at the model's rate before the window

    @classmethod
    def of(cls, rate: int, start: int, form: Format) -> "Span":
        """The span at a file's `rate` of the window that starts at the model's sample `start`."""
        ratio = Fraction(rate, form.sample_rate)  # file's samples for one of the model's
        margin = 0 if ratio == 1 else ceil(MARGIN * max(1, 1 / ratio))
        begin = (start - margin) // ratio.denominator * ratio.denominator
        skip = start - begin
        frames = ceil((skip + form.samples + margin) * ratio)
        window = slice(floor(skip * ratio), ceil((skip + form.samples) * ratio))
        return cls(int(begin * ratio), frames, window, skip)


def voices(window: Window) -> list[Voice]:
    """Every stem of the window's song, unchanged."""
    sources = () if window.song.mixture_only else window.sources
    return [
        Voice(stem, Track.SOURCE if stem in sources else Track.SUBMIXTURE, window.start)
        for stem in window.song.stems
    ]


def make_triplet(window: Window, form: Format, heard: Sequence[Voice] | None = None) -> Triplet:
    """Read every voice by seeking (the window's own if not said); sums are float32, never clipped.

    Of a mixture-only song, source (silence) and submixture (the mixture) mean nothing.
    """
    audio = np.zeros((NUM_TRACKS, form.channels, form.samples), dtype=np.float32)
    sums: dict[Track, dict[tuple[int, int], np.ndarray]] = defaultdict(dict)
    labels = defaultdict(set)
    for voice in voices(window) if heard is None else heard:
        by_rate, sounds = read_stem(voice.stem, voice.start, form)
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


def read_stem(stem: Stem, start: int, form: Format) -> tuple[dict[int, np.ndarray], bool]:
    """The window's span of a stem, summed by rate, and whether the window sounds.

    By rate in Hz: (channels, samples). Of rates that differ, one that sounds is enough.
    """
    by_rate: dict[int, np.ndarray] = {}
    for part in stem.read_from:
        span = Span.of(part.sample_rate, start, form)
        samples = read_window(part.path, span.first, span.frames, part.stream)
        samples = to_channels(samples, form.channels)
        by_rate[part.sample_rate] = by_rate.get(part.sample_rate, 0) + samples
    windows = {rate: Span.of(rate, start, form).window for rate in by_rate}
    levels = [rms_db(by_rate[rate][:, window]) for rate, window in windows.items()]
    return by_rate, max(levels) > form.silence_db


def stem_window(stem: Stem, start: int, form: Format) -> np.ndarray:
    """A window (channel, sample) of a stem at the model's rate, zeros outside of it."""
    total = np.zeros((form.channels, form.samples), dtype=np.float32)
    for rate, samples in read_stem(stem, start, form)[0].items():
        total += cut(samples, rate, start, form)
    return total


def cut(samples: np.ndarray, rate: int, start: int, form: Format) -> np.ndarray:
    """Resample a window's span to the model's rate and cut its margins off."""
    skip = Span.of(rate, start, form).skip
    return resample(samples, rate, form.sample_rate)[:, skip : skip + form.samples]
