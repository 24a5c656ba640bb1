"""Changes to the stems of a window that keep mixture = submixture + source exact."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mge_plugin.data.choice import may_be
from mge_plugin.data.options import AugmentConfig
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import MAX_TRIES, Format, Voice, Window, voices
from mge_plugin.tracks import Track


def augment(
    window: Window,
    config: AugmentConfig,
    songs: Sequence[Song],
    form: Format,
    rng: np.random.Generator,
) -> list[Voice]:
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
    voice: Voice, window: Window, songs: Sequence[Song], form: Format, rng: np.random.Generator
) -> Voice:
    """A stem of the submixture becomes one of another song, from anywhere in it.

    Only one of which it is known that it is no instrument that is asked: never `other`, never a
    whole mixture. Where 10 songs drawn have none the voice stays as it is.
    """
    asked = {stem.label for stem in window.sources} | {window.asked} - {None}
    for _ in range(MAX_TRIES if voice.track == Track.SUBMIXTURE else 0):
        song = songs[rng.integers(len(songs))]
        stems = [s for s in song.sources if not any(may_be(s.label, label) for label in asked)]
        if song is not window.song and stems:
            last_start = max(0, song.samples(form.sample_rate) - form.samples)
            start = int(rng.integers(last_start + 1))
            return replace(voice, stem=stems[rng.integers(len(stems))], start=start)
    return voice
