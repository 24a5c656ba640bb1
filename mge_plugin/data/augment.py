"""Changes to the stems of a window that keep mixture = submixture + source exact."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from mge_plugin.data.options import AugmentConfig
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, Voice
from mge_plugin.tracks import Track


def augment(
    voices: Sequence[Voice],
    config: AugmentConfig,
    songs: Sequence[Song],
    form: Format,
    rng: np.random.Generator,
) -> list[Voice]:
    """A window's voices with other songs' stems, gains, polarities and sides, as configured."""
    if config.p_other_songs and rng.random() < config.p_other_songs:
        asked = {voice.stem.label for voice in voices if voice.track == Track.SOURCE}
        voices = [_from_elsewhere(voice, songs, asked, form, rng) for voice in voices]
    swapped = bool(config.p_swap_channels) and rng.random() < config.p_swap_channels
    return [replace(voice, gain=_gain(config, rng), swapped=swapped) for voice in voices]


def _gain(config: AugmentConfig, rng: np.random.Generator) -> float:
    lowest, highest = config.gain_db
    gain = 10 ** (rng.uniform(lowest, highest) / 20) if highest != lowest else 10 ** (lowest / 20)
    return -gain if config.p_polarity and rng.random() < config.p_polarity else gain


def _from_elsewhere(
    voice: Voice,
    songs: Sequence[Song],
    asked: Collection[str],
    form: Format,
    rng: np.random.Generator,
) -> Voice:
    """A stem of the submixture becomes one of another song, from anywhere in it.

    Not one of an instrument that is asked; a song that has no other leaves the voice as it is.
    """
    song = songs[rng.integers(len(songs))]
    others = [stem for stem in song.stems if stem.label not in asked]
    if voice.track != Track.SUBMIXTURE or not others:
        return voice
    last_start = max(0, song.samples(form.sample_rate) - form.samples)
    start = int(rng.integers(last_start + 1))
    return replace(voice, stem=others[rng.integers(len(others))], start=start)
