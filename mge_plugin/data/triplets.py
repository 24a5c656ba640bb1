"""Mixture, submixture and source from a song's stems (paper, sections 2.1 and E.1).

    draw_window   a source stem and one offset for all stems, the source not silent if possible
    make_triplet  sum the stems at their own rate, resample the two sums, add them
"""

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mge_plugin.data.audio import fit_length, read_window, resample, rms_db, to_channels
from mge_plugin.data.songs import Song, Stem
from mge_plugin.tracks import NUM_TRACKS, Track

MAX_TRIES = 10  # windows drawn for a source that sounds (paper, section E.1)
MARGIN = 1024  # samples read beyond each edge, so that the resampler sees no cut inside the window


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


def draw_window(song: Song, form: Format, rng: np.random.Generator) -> Window:
    """Choose the source uniformly over stems, then up to 10 offsets until it sounds.

    If it never does, the last offset stands: a song may rest.
    """
    source = song.stems[rng.integers(len(song.stems))]
    last_start = max(0, int(song.seconds * form.sample_rate) - form.samples)
    for _ in range(MAX_TRIES):
        window = Window(song, source, int(rng.integers(last_start + 1)))
        if rms_db(_read_native(source, window.start, form, margin=0)) > form.silence_db:
            break
    return window


def make_triplet(window: Window, form: Format) -> Triplet:
    """Read every stem by seeking; sums are float32 and never clipped."""
    audio = np.empty((NUM_TRACKS, form.channels, form.samples), dtype=np.float32)
    sums: dict[Track, dict[int, np.ndarray]] = {Track.SUBMIXTURE: {}, Track.SOURCE: {}}
    labels = defaultdict(set)
    for stem in window.song.stems:
        track = Track.SOURCE if stem is window.source else Track.SUBMIXTURE
        samples = _read_native(stem, window.start, form, MARGIN)
        if rms_db(samples) > form.silence_db:
            labels[track].add(stem.label)
        by_rate = sums[track]
        by_rate[stem.sample_rate] = by_rate.get(stem.sample_rate, 0) + samples
    for track, by_rate in sums.items():
        audio[track] = sum(_to_model_rate(s, rate, form) for rate, s in by_rate.items())
    audio[Track.MIXTURE] = audio[Track.SUBMIXTURE] + audio[Track.SOURCE]
    labels[Track.MIXTURE] = labels[Track.SUBMIXTURE] | labels[Track.SOURCE]
    return Triplet(window, audio, {track: tuple(sorted(labels[track])) for track in Track})


def _read_native(stem: Stem, start: int, form: Format, margin: int) -> np.ndarray:
    """The window at the stem's own rate with a margin, (channels, samples)."""
    ratio = Fraction(stem.sample_rate, form.sample_rate)
    frames = -(-form.samples * ratio.numerator // ratio.denominator) + 2 * margin
    audio = read_window(stem.path, round(start * ratio) - margin, frames)
    return to_channels(audio, form.channels)


def _to_model_rate(audio: np.ndarray, rate: int, form: Format) -> np.ndarray:
    """Resample a window that has its margin, and cut that off."""
    skip = round(MARGIN * Fraction(form.sample_rate, rate))
    return fit_length(resample(audio, rate, form.sample_rate)[:, skip:], form.samples)
