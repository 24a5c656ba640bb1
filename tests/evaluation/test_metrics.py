"""Closed forms of the figures on the demo's page."""

import numpy as np
import pytest

from mge_plugin.evaluation.log_mel import FLOOR, log_mel, log_mel_l1
from mge_plugin.evaluation.si_sdr import si_sdr

RATE = 16000


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)


def test_log_mel_l1_of_a_signal_to_itself_is_zero(noise):
    assert log_mel_l1(noise, noise, RATE) == 0.0


def test_a_gain_of_g_is_a_log_mel_l1_of_twice_log_g(noise):
    """Powers scale with the square, and no band of the noise is near the floor."""
    assert log_mel_l1(3.0 * noise, noise, RATE) == pytest.approx(2 * np.log(3.0), abs=1e-3)


def test_silence_is_the_floor_on_both_sides(noise):
    silence = np.zeros_like(noise)
    assert log_mel_l1(silence, silence, RATE) == 0.0
    assert (log_mel(silence, RATE) == np.float32(np.log(FLOOR))).all()
    expected = float(np.abs(log_mel(noise, RATE) - np.log(FLOOR)).mean())
    assert log_mel_l1(noise, silence, RATE) == pytest.approx(expected, rel=1e-5)


def test_any_rate_and_channels_are_brought_to_16_khz_mono(noise):
    stereo = np.repeat(noise, 2, axis=0)
    assert log_mel(stereo, 44100).shape == (64, log_mel(noise, 44100).shape[1])


def test_signals_of_different_length_are_refused(noise):
    with pytest.raises(ValueError, match="differ in length: 15999 and 16000 samples"):
        log_mel_l1(noise[:, 1:], noise, RATE)
    with pytest.raises(ValueError, match="differ"):
        si_sdr(noise[:, 1:], noise)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies():
    reference, disturbance = np.zeros((1, 4)), np.zeros((1, 4))
    reference[0, 0], disturbance[0, 1] = 2.0, 0.2
    assert si_sdr(reference + disturbance, reference) == pytest.approx(20.0)
    assert si_sdr(5.0 * (reference + disturbance), reference) == pytest.approx(20.0)


def test_si_sdr_at_its_ends(noise):
    assert si_sdr(0.5 * noise, noise) > 100
    assert si_sdr(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])) == float("-inf")
    assert np.isnan(si_sdr(noise, np.zeros_like(noise)))
