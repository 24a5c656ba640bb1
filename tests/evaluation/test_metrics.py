"""Closed forms of every figure of a waveform."""

import numpy as np
import pytest

from mge_plugin.evaluation.metrics import (
    LOG_MEL_FLOOR,
    interval,
    log_mel,
    log_mel_l1,
    sdr,
    si_sdr,
    spectral_distance,
)

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
    assert (log_mel(silence, RATE) == np.float32(np.log(LOG_MEL_FLOOR))).all()
    expected = float(np.abs(log_mel(noise, RATE) - np.log(LOG_MEL_FLOOR)).mean())
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


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_sdr_of_a_gain_and_of_known_noise(gain):
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((1, 4000))
    noise = rng.standard_normal((1, 4000))
    noise -= (noise @ reference.T) / (reference @ reference.T) * reference
    noise *= 0.1 * np.linalg.norm(reference) / np.linalg.norm(noise)
    assert sdr(reference + noise, reference) == pytest.approx(20.0)
    assert si_sdr(gain * (reference + noise), reference) == pytest.approx(20.0)
    assert sdr(gain * reference, reference) == pytest.approx(-20 * np.log10(abs(1 - gain)))


def test_sdr_of_silence_is_no_number():
    silence, sound = np.zeros((1, 10)), np.ones((1, 10))
    assert np.isnan(sdr(sound, silence))
    assert sdr(silence, sound) == 0.0
    assert sdr(sound, sound) == float("inf")


def test_the_spectral_distance_of_a_gain():
    """Convergence |1 - g| and log magnitudes ln g, of every resolution."""
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((1, 16000)).astype(np.float32)
    found = spectral_distance(2 * reference, reference)
    assert found == pytest.approx(1.0 + np.log(2), abs=1e-3)
    assert spectral_distance(reference, reference) == 0.0
    assert spectral_distance(0 * reference, 0 * reference) == 0.0
    with pytest.raises(ValueError, match="differ in length: 5 and 4 samples"):
        spectral_distance(np.zeros((1, 5)), np.zeros((1, 4)))


def test_intervals_are_over_songs_and_not_over_windows():
    rng = np.random.default_rng(0)
    means = rng.standard_normal(30)
    values = [m for m in means for _ in range(100)]
    songs = [str(i) for i in range(30) for _ in range(100)]
    low, high = interval(values, songs)
    error = means.std() / np.sqrt(30)
    assert low == pytest.approx(means.mean() - 1.96 * error, abs=0.1)
    assert high == pytest.approx(means.mean() + 1.96 * error, abs=0.1)
    assert interval(values, songs) == (low, high)


def test_one_song_has_no_interval_and_nan_is_left_out():
    assert np.isnan(interval([1.0, 2.0], ["a", "a"])).all()
    assert interval([1.0, np.nan, 1.0], ["a", "a", "b"]) == (1.0, 1.0)
