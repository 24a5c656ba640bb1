"""Reading by seeking, resampling and writing: lengths, edges, and every kind of broken file."""

import os

import numpy as np
import pytest
import soundfile as sf
from numpy.testing import assert_allclose, assert_array_equal

from mge_plugin.data.audio import (
    audio_info,
    fit_length,
    loudness_db,
    read_audio,
    resample,
    rms_db,
    to_channels,
    write_wav,
)
from tests.data.conftest import window_of

RATE = 16_000


def _sine(frequency, rate, seconds):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)[None]


@pytest.mark.parametrize("ending", [".wav", ".flac"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("start", "frames"),
    [(0, 1000), (300, 100), (-50, 200), (950, 200), (-50, 1200), (1000, 10), (5000, 10), (-90, 20)],
)
def test_a_window_is_the_file_with_zeros_on_both_sides(
    tmp_path, noise, ending, channels, start, frames
):
    path = tmp_path / f"stem{ending}"
    sf.write(path, noise(1000, channels=channels), RATE)
    whole, rate = read_audio(path)
    assert rate == RATE and whole.shape == (channels, 1000) and whole.any()
    padded = np.pad(whole, ((0, 0), (100, 6000)))
    window = window_of(path, start, frames)
    assert window.dtype == np.float32
    assert_array_equal(window, padded[:, 100 + start : 100 + start + frames])


@pytest.mark.parametrize(
    ("name", "kind", "subtype", "tolerance"),
    [
        ("a.wav", "WAV", "PCM_U8", 2**-7),
        ("a.wav", "WAV", "PCM_16", 2**-15),
        ("a.wav", "WAV", "PCM_24", 2**-23),
        ("a.wav", "WAV", "FLOAT", 0),
        ("a.wav", "WAV", "DOUBLE", 0),
        ("a.wav", "RF64", "FLOAT", 0),
        ("w64 inside.wav", "W64", "FLOAT", 0),
        ("flac inside.wav", "FLAC", "PCM_24", 2**-23),
        ("UPPER.AIFF", "AIFF", "PCM_16", 2**-15),
        ("Song [Live] é 日本.wav", "WAV", "FLOAT", 0),
    ],
)
def test_content_decides_the_format_and_samples_become_float32(
    tmp_path, noise, name, kind, subtype, tolerance
):
    sf.write(tmp_path / name, noise(500), 44_100, format=kind, subtype=subtype)
    audio, rate = read_audio(tmp_path / name)
    assert rate == 44_100 and audio.dtype == np.float32
    assert_allclose(audio[0], noise(500), atol=tolerance, rtol=0)
    assert audio_info(tmp_path / name) == (44_100, 500)


@pytest.mark.parametrize("rates", [(44_100, 16_000), (16_000, 44_100), (44_099, 16_000), (8, 3)])
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 10, 997, 4410])
def test_a_resampled_length_is_rounded_up_and_its_last_sample_is_no_padding(noise, rates, samples):
    audio = noise(samples, channels=2).T
    resampled = resample(audio, *rates)
    length = -(-samples * rates[1] // rates[0])
    assert resampled.shape == (2, length) and resampled.dtype == np.float32
    followed = resample(np.pad(audio, ((0, 0), (0, 1000))), *rates)
    assert_allclose(resampled, followed[:, :length], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rates", [(44_100, 16_000), (48_000, 44_100), (44_099, 44_100)])
def test_a_resampled_sine_is_the_sine_at_the_new_rate(rates):
    expected = _sine(440, rates[1], 1)
    resampled = resample(_sine(440, rates[0], 1), *rates)
    inner = slice(300, -300)  # a sine that begins or ends is more than a sine there
    assert_allclose(resampled[:, inner], expected[:, inner], atol=1e-5, rtol=0)


def test_resampling_to_the_same_rate_changes_nothing(noise):
    audio = noise(100)[None]
    assert resample(audio, RATE, RATE) is audio


def test_fitting_a_length_cuts_or_pads_the_end():
    audio = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert_array_equal(fit_length(audio, 2), [[0, 1], [3, 4]])
    assert_array_equal(fit_length(audio, 4), [[0, 1, 2, 0], [3, 4, 5, 0]])


@pytest.mark.parametrize(
    ("audio", "channels", "expected"),
    [
        ([[1, 2]], 1, [[1, 2]]),
        ([[1, 2]], 2, [[1, 2], [1, 2]]),
        ([[1, 2], [3, 6]], 1, [[2, 4]]),
        ([[1], [2], [3], [4], [5], [6]], 2, [[1], [2]]),
        ([[1], [2], [6]], 1, [[3]]),
        ([[1], [3]], 4, [[2], [2], [2], [2]]),
    ],
)
def test_channels_are_averaged_copied_or_cut(audio, channels, expected):
    converted = to_channels(np.array(audio, dtype=np.float32), channels)
    assert converted.dtype == np.float32
    assert_array_equal(converted, expected)


@pytest.mark.parametrize("gains", [(1, -1), (1, -0.9), (-0.9, 1), (1, -1, 0.5, -0.5)])
def test_channels_of_opposite_polarity_do_not_cancel_in_mono(gains):
    signal = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    mono = to_channels(np.array(gains, dtype=np.float32)[:, None] * signal, 1)
    assert mono.dtype == np.float32
    expected = np.sqrt(np.mean(np.square(gains))) * signal
    np.testing.assert_allclose(np.abs(mono), np.abs(expected), rtol=1e-4)
    assert np.sign(mono[0, 0] * signal[0, 0]) == np.sign(gains[np.argmax(np.abs(gains))])


def test_independent_channels_are_averaged():
    audio = np.random.default_rng(0).standard_normal((6, 10_000)).astype(np.float32)
    assert_array_equal(to_channels(audio, 1), audio.mean(axis=0, keepdims=True))
    assert_array_equal(to_channels(audio * (np.arange(6) == 2)[:, None], 1)[0], audio[2] / 6)


def test_levels_are_rms_in_dbfs():
    assert rms_db(np.ones((2, 10))) == 0
    assert rms_db(np.full((1, 10), 0.1)) == pytest.approx(-20)
    assert rms_db(np.zeros((1, 10))) == -np.inf == rms_db(np.zeros((1, 0)))


def test_loudness_leaves_out_pauses_and_follows_every_gain():
    tone = _sine(440, RATE, 4.0).astype(np.float32)
    paused = np.concatenate([tone, np.zeros((1, 8 * RATE), np.float32)], axis=1)
    level = 20 * np.log10(0.5) - 3.01
    assert loudness_db(tone, RATE) == pytest.approx(level, abs=0.05)
    assert loudness_db(paused, RATE) == pytest.approx(level, abs=0.05)
    assert loudness_db(1e-4 * paused, RATE) == pytest.approx(level - 80, abs=0.05)
    assert loudness_db(tone[:, :10], RATE) > -20
    assert loudness_db(np.zeros((2, 100), np.float32), RATE) == -np.inf


def test_writing_keeps_levels_above_full_scale(tmp_path):
    audio = np.array([[1.5, -2.25, 1e-9]], dtype=np.float32)
    path = write_wav(tmp_path / "new folder" / "loud.wav", audio, 44_100)
    assert_array_equal(read_audio(path)[0], audio)
    assert sf.info(path).subtype == "FLOAT"
    assert [file.name for file in path.parent.iterdir()] == ["loud.wav"]


def test_the_longest_name_a_file_system_takes_can_be_written(tmp_path, noise):
    path = tmp_path / f"{'日' * 83}ab.wav"
    assert len(os.fsencode(path.name)) == 255
    write_wav(path, noise(10)[None], RATE)
    assert_array_equal(read_audio(path)[0][0], noise(10))


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, noise):
    path = write_wav(tmp_path / "a.wav", noise(10)[None], RATE)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_wav(path, noise(20)[None], RATE)
    assert_array_equal(read_audio(path)[0][0], noise(10))
    assert list(tmp_path.iterdir()) == [path]
