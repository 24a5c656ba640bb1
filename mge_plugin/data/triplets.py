"""Mixture, submixture and source from a song's stems (paper, sections 2.1 and E.1).

draw_window   a source stem and one offset for all stems, the source not silent if possible
make_triplet  sum the stems at their own rate, resample the two sums, add them
"""

from collections import defaultdict
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
    """One choice: this stem of this song, from this sample at the model's rate."""

    song: Song
    source: Stem
    start: int


@dataclass(frozen=True)
class Triplet:
    """`audio` (track, channel, sample) float32, mixture = submixture + source exactly."""

    window: Window
    audio: np.ndarray
    labels: dict[Track, tuple[str, ...]]  # what sounds in each track


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


def draw_window(song: Song, form: Format, rng: np.random.Generator) -> Window:
    """Choose the source uniformly over those that may be, then up to 10 offsets until it sounds.

    If it never does, the last offset stands: a song may rest.
    """
    choices = song.sources or song.stems  # of a mixture alone nothing can be asked
    source = choices[rng.integers(len(choices))]
    last_start = max(0, song.samples(form.sample_rate) - form.samples)
    for _ in range(MAX_TRIES):
        window = Window(song, source, int(rng.integers(last_start + 1)))
        _, sounds = _read(source, window.start, form)
        if sounds:
            break
    return window


def make_triplet(window: Window, form: Format) -> Triplet:
    """Read every stem by seeking; sums are float32 and never clipped.

    Of a mixture-only song, source (silence) and submixture (the mixture) mean nothing.
    """
    audio = np.zeros((NUM_TRACKS, form.channels, form.samples), dtype=np.float32)
    sums: dict[Track, dict[int, np.ndarray]] = {Track.SUBMIXTURE: {}, Track.SOURCE: {}}
    labels = defaultdict(set)
    for stem in window.song.stems:
        asked = stem == window.source and not window.song.mixture_only
        track = Track.SOURCE if asked else Track.SUBMIXTURE
        by_rate, sounds = _read(stem, window.start, form)
        if sounds and not window.song.mixture_only:
            labels[track].add(stem.label)
        for rate, samples in by_rate.items():
            sums[track][rate] = sums[track].get(rate, 0) + samples
    for track, by_rate in sums.items():
        audio[track] = sum(_cut(s, rate, window.start, form) for rate, s in by_rate.items())
    audio[Track.MIXTURE] = audio[Track.SUBMIXTURE] + audio[Track.SOURCE]
    labels[Track.MIXTURE] = labels[Track.SUBMIXTURE] | labels[Track.SOURCE]
    return Triplet(window, audio, {track: tuple(sorted(labels[track])) for track in Track})


def _read(stem: Stem, start: int, form: Format) -> tuple[dict[int, np.ndarray], bool]:
    """The window's span of a stem, summed by rate, and whether the window sounds.

    By rate in Hz: (channels, samples). Of rates that differ, one that sounds is enough.
    """
    by_rate: dict[int, np.ndarray] = {}
    for part in stem.parts:
        span = Span.of(part.sample_rate, start, form)
        samples = read_window(part.path, span.first, span.frames, part.stream)
        samples = to_channels(samples, form.channels)
        by_rate[part.sample_rate] = by_rate.get(part.sample_rate, 0) + samples
    windows = {rate: Span.of(rate, start, form).window for rate in by_rate}
    levels = [rms_db(by_rate[rate][:, window]) for rate, window in windows.items()]
    return by_rate, max(levels) > form.silence_db


def _cut(samples: np.ndarray, rate: int, start: int, form: Format) -> np.ndarray:
    """Resample a window's span to the model's rate and cut its margins off."""
    skip = Span.of(rate, start, form).skip
    return resample(samples, rate, form.sample_rate)[:, skip : skip + form.samples]
