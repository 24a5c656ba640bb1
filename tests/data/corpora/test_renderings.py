"""Stems of white noise or of one tone are told; music is not."""

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.corpora.verify import _NOISE, _TONE, _check_stems

RATE = 16_000
_SECONDS = 12


def time():
    return np.arange(_SECONDS * RATE) / RATE


def tone(hertz):
    return 0.3 * np.sin(2 * np.pi * hertz * time())


def melody():
    """A harmonic sound whose pitch changes every second."""
    pitch = 220 * 2 ** (np.floor(time()) % 7 / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(0.2 / k * np.sin(k * phase) for k in range(1, 6))


@pytest.fixture
def odd(tmp_path):
    """What is noticed of a song with this stem beside a melody."""

    def check(audio):
        folder = tmp_path / "corpus" / "song"
        folder.mkdir(parents=True)
        sf.write(folder / "odd.wav", audio, RATE)
        sf.write(folder / "piano.wav", melody(), RATE)
        corpus = read_corpus(CorpusConfig("c", str(tmp_path / "corpus"), type="folder"))
        return _check_stems(corpus).odd, str(folder / "odd.wav")

    return check


@pytest.mark.parametrize("resting", [False, True])
def test_white_noise_is_told(odd, resting):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, _SECONDS * RATE)
    noise[: 7 * RATE if resting else 0] = 0
    found, path = odd(noise)
    assert found == {_NOISE: [path]}


def test_one_tone_for_the_whole_song_is_told(odd):
    found, path = odd(tone(440))
    assert found == {_TONE: [path]}


def test_music_is_not(odd):
    drums = np.random.default_rng(0).standard_normal(_SECONDS * RATE)
    drums *= 0.2 * np.exp(-8 * (time() % 0.5))
    drums = np.convolve(drums, np.ones(8) / 8, "same")
    assert odd(drums)[0] == {}


def test_another_tone_every_few_seconds_is_not(odd):
    steps = np.where(time() < 5, tone(440), tone(660))
    assert odd(steps)[0] == {}


def test_silence_is_not(odd):
    assert odd(np.zeros(_SECONDS * RATE))[0] == {}
