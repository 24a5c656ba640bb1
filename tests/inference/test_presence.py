"""Scores that say whether a source is there."""

import numpy as np
import pytest

from mge_plugin.inference.presence import Presence, agreement, presence, sounding

RATE = 16000


def tone(hertz, level=0.1):
    return (level * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)).astype(np.float32)[None]


def test_a_part_of_the_mixture_is_present():
    mixture = tone(200) + tone(3000)
    assert presence(tone(200), mixture, RATE).score == pytest.approx(1.0, abs=0.02)
    assert presence(mixture, mixture, RATE).score == pytest.approx(1.0, abs=1e-6)


def test_what_the_mixture_has_not_is_absent():
    found = presence(tone(1000), tone(200) + tone(3000), RATE)
    assert found.energy == 1.0
    assert found.contained < 0.01 and found.score < 0.01


@pytest.mark.parametrize(("below", "energy"), [(20, 1.0), (40, 0.5), (50, 0.0), (80, 0.0)])
def test_what_is_far_below_the_mixture_is_absent(below, energy):
    mixture = tone(200)
    found = presence(mixture * 10 ** (-below / 20), mixture, RATE)
    assert found.energy == pytest.approx(energy, abs=0.01)


@pytest.mark.parametrize(("source", "mixture"), [(0, 1), (1, 0), (0, 0)])
def test_silence_is_absent_and_finite(source, mixture):
    assert presence(source * tone(200), mixture * tone(200), RATE).score == 0.0


@pytest.mark.parametrize(
    ("similarity", "score"), [(None, 1.0), (0.4, 1.0), (0.2, 1.0), (0.1, 0.5), (-0.3, 0.0)]
)
def test_a_model_that_hears_has_a_say(similarity, score):
    assert Presence(1.0, 1.0, similarity).score == pytest.approx(score)
    assert ("similarity" in Presence(1.0, 1.0, similarity).described()) == (similarity is not None)


def test_agreement_of_a_mixture_with_its_parts():
    mixture = tone(200) + tone(3000)
    assert agreement(mixture, tone(200) + tone(3000), RATE) == pytest.approx(1.0)
    assert 0.3 < agreement(mixture, tone(200), RATE) < 0.8
    assert agreement(tone(3000), tone(200), RATE) < 0.02
    assert agreement(0 * mixture, 0 * mixture, RATE) == 1.0
    assert agreement(mixture, 0 * mixture, RATE) == 0.0


def test_runs_of_zeros_are_silence_and_zero_crossings_are_not():
    audio = np.concatenate([tone(200), np.zeros((1, 2000), np.float32), tone(200)], axis=1)
    mask = sounding(audio, RATE)
    silent = np.flatnonzero(mask == 0)
    assert silent[0] in (RATE, RATE - 1) and silent[-1] in (RATE + 2000, RATE + 1999)
    assert mask[:RATE].sum() >= RATE - 1


def test_a_short_file_of_zeros_is_silence():
    assert not sounding(np.zeros((2, 3), np.float32), RATE).any()
