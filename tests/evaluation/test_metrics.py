"""Metrics against closed forms, and the embeddings that FAD is measured in."""

import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from mge_plugin.config import ConfigError
from mge_plugin.evaluation.metrics import (
    _LOG_MEL_FLOOR,
    Gaussian,
    _MelStatistics,
    _Vggish,
    frechet_distance,
    interval,
    log_mel,
    log_mel_l1,
    open_embedding,
    sdr,
    si_sar,
    si_sdr,
    spectral_distance,
)

RATE = 16000
INF = float("inf")


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)


def row(*samples):
    return np.array([samples])


# Log-Mel L1


def test_log_mel_l1_of_a_signal_to_itself_is_zero(noise):
    assert log_mel_l1(noise, noise, RATE) == 0.0


def test_a_gain_of_g_is_a_log_mel_l1_of_twice_log_g(noise):
    """Powers scale with the square, and no band of the noise is near the floor."""
    assert log_mel_l1(3.0 * noise, noise, RATE) == pytest.approx(2 * np.log(3.0), abs=1e-3)


def test_silence_is_the_floor_on_both_sides(noise):
    silence = np.zeros_like(noise)
    assert log_mel_l1(silence, silence, RATE) == 0.0
    assert (log_mel(silence, RATE) == np.float32(np.log(_LOG_MEL_FLOOR))).all()
    expected = float(np.abs(log_mel(noise, RATE) - np.log(_LOG_MEL_FLOOR)).mean())
    assert log_mel_l1(noise, silence, RATE) == pytest.approx(expected, rel=1e-5)


def test_any_rate_and_channels_are_brought_to_16_khz_mono(noise):
    stereo = np.repeat(noise, 2, axis=0)
    assert log_mel(stereo, 44100).shape == (64, log_mel(noise, 44100).shape[1])


@pytest.mark.parametrize("metric", [si_sdr, sdr, spectral_distance, "log_mel_l1"])
def test_signals_of_different_length_are_refused(noise, metric):
    call = (lambda a, b: log_mel_l1(a, b, RATE)) if metric == "log_mel_l1" else metric
    with pytest.raises(ValueError, match="differ"):
        call(noise[:, 1:], noise)


# Ratios of waveforms


def test_si_sdr_of_four_samples_and_of_a_delay():
    found = si_sdr(row(2.5, 0.0, 2.0, 8.0), row(3.0, -0.5, 2.0, 7.0))
    assert found == pytest.approx(18.4030, abs=1e-4)
    wave = np.sin(2 * np.pi * 1000 * np.arange(17) / 16000)  # 1 kHz, a whole period
    assert si_sdr(wave[None, :16], wave[None, 1:]) == pytest.approx(7.6555, abs=1e-4)


@pytest.mark.parametrize(("parts", "expected"), [(2, 0.0), (4, -4.7712)])
def test_si_sdr_of_a_mixture_of_equal_orthogonal_parts(parts, expected):
    assert si_sdr(np.ones((1, parts)), np.eye(parts)[:1]) == pytest.approx(expected, abs=1e-4)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies_at_any_gain():
    estimate, reference = row(2.0, 0.2, 0.0), row(2.0, 0.0, 0.0)
    for gain in (1.0, 5.0, -1.0):
        assert si_sdr(gain * estimate, reference) == pytest.approx(20.0)


def test_si_sdr_at_its_ends(noise):
    """A silent estimate is the worst, never the best."""
    assert si_sdr(0 * noise, noise) == -INF
    assert si_sdr(row(0.0, 1.0), row(1.0, 0.0)) == -INF
    assert si_sdr(row(2.0, 0.0), row(1.0, 0.0)) == INF
    assert np.isnan(si_sdr(noise, 0 * noise))


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_sdr_of_a_gain_and_of_known_noise(gain):
    reference = row(2.0, 0.0)
    assert sdr(reference + row(0.0, 0.2), reference) == pytest.approx(20.0)
    assert sdr(gain * reference, reference) == pytest.approx(-20 * np.log10(abs(1 - gain)))


def test_sdr_of_silence_is_no_number():
    silence, sound = np.zeros((1, 10)), np.ones((1, 10))
    assert np.isnan(sdr(sound, silence))
    assert (sdr(silence, sound), sdr(sound, sound)) == (0.0, INF)


def test_si_sar_ignores_the_other_stems_and_counts_what_neither_explains():
    reference, others = row(2.0, 0.0, 0.0), row(1.0, 3.0, 0.0)  # they overlap
    assert si_sar(reference + 0.7 * others, reference, others) == INF
    leak, artifact = row(0.0, 5.0, 0.0), row(0.0, 0.0, 0.2)
    assert si_sar(reference + leak + artifact, reference, others) == pytest.approx(20.0)
    assert si_sar(reference + leak, reference, 0 * others) == si_sdr(reference + leak, reference)
    assert si_sar(0 * reference, reference, others) == -INF
    assert np.isnan(si_sar(reference, 0 * reference, others))


def test_the_spectral_distance_of_a_gain(noise):
    """Convergence |1 - g| and log magnitudes ln g, at every resolution."""
    assert spectral_distance(2 * noise, noise) == pytest.approx(1.0 + np.log(2), abs=1e-3)
    assert spectral_distance(noise, noise) == spectral_distance(0 * noise, 0 * noise) == 0.0


# Intervals


def test_intervals_are_over_songs_and_not_over_windows():
    means = np.random.default_rng(0).standard_normal(30)
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


# FAD


def exactly(covariance, mean=0.0, count=400, seed=0):
    """Items whose mean and covariance are exactly these."""
    covariance = np.atleast_2d(covariance)
    items = np.random.default_rng(seed).standard_normal((count, len(covariance)))
    items -= items.mean(axis=0)
    items = items @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(items.T))).T)
    return items @ np.linalg.cholesky(covariance).T + mean


def fad(a, b):
    return frechet_distance(Gaussian.of(a), Gaussian.of(b))["fad"]


def turned(matrix, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[c, -s], [s, c]])
    return rotation @ matrix @ rotation.T


PLUS, MINUS = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[2.0, -1.0], [-1.0, 2.0]])
LONG = np.diag([4.0, 1.0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.eye(4), 4 * np.eye(4), 4.0),
        (np.diag([1.0, 4.0, 9.0, 16.0]), np.eye(4), 14.0),
        (PLUS, MINUS, 8 - 4 * np.sqrt(3)),
        (LONG, turned(LONG, 30), 0.460608),
    ],
)
def test_the_distance_of_two_covariances(a, b, expected):
    assert fad(exactly(a), exactly(b, seed=1)) == pytest.approx(expected, abs=1e-6)


def test_the_distance_of_two_means():
    shift = np.array([3.0, 4.0])
    assert fad(exactly(PLUS), exactly(PLUS, shift, seed=1)) == pytest.approx(25.0)
    assert fad(exactly(4.0, 1.0), exactly(0.25, 4.0)) == pytest.approx(9.0 + 2.25)  # 1 dimension
    square = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    assert fad(square, square + np.array([1, 0])) == pytest.approx(1.0)
    assert fad(square, 2 * square) == pytest.approx(14 / 3)


def test_two_covariances_of_rank_one_along_different_axes():
    line = exactly(1.0)
    assert fad(line * [1, 0], line * [0, 1]) == pytest.approx(2.0)


def test_the_distance_is_the_papers_formula():
    rng = np.random.default_rng(3)
    means = rng.standard_normal((2, 5))
    covariances = [a @ a.T + 0.1 * np.eye(5) for a in rng.standard_normal((2, 5, 5))]
    sets = (exactly(c, m) for c, m in zip(covariances, means, strict=True))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert fad(*sets) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("origin", [1e3, 1e6, 1e8])
def test_the_distance_does_not_depend_on_the_origin(origin):
    a, b = np.random.default_rng(0).standard_normal((2, 200, 8))
    b = 2 * b + 1
    assert fad(a + origin, b + origin) == pytest.approx(fad(a, b), rel=1e-6)


def test_the_distance_follows_symmetries():
    """Symmetric, invariant to rotation, permutation and order; a scale k gives k^2."""
    a, b = np.random.default_rng(0).standard_normal((2, 50, 8))
    b = b + 1
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    whole = fad(a, b)
    for other in (fad(b, a), fad(a @ rotation, b @ rotation), fad(a[::-1, ::-1], b[:, ::-1])):
        assert other == pytest.approx(whole, abs=1e-9)
    assert fad(3 * a, 3 * b) == pytest.approx(9 * whole)


@pytest.mark.parametrize("count", [2, 63, 64, 65, 500])
def test_a_set_is_at_no_distance_from_itself_whatever_its_size(count):
    """Never negative, never complex, with singular covariances too."""
    items = np.random.default_rng(0).standard_normal((count, 64))
    found = frechet_distance(Gaussian.of(items), Gaussian.of(items))
    assert 0.0 <= found["fad"] < 1e-6
    assert found["rank"] == [min(count - 1, 64)] * 2


def test_pieces_are_the_whole():
    items = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32) + 1e3
    pieces = Gaussian(6)
    for piece in [*np.array_split(items, 7), items[:0]]:
        pieces.add(piece)
    np.testing.assert_allclose(pieces.covariance, np.cov(items.T.astype(float)), atol=1e-9)
    np.testing.assert_allclose(pieces.mean, items.astype(float).mean(axis=0), atol=1e-9)


def test_one_item_has_no_covariance_and_few_items_are_reported(caplog):
    items = np.random.default_rng(0).standard_normal((10, 20))
    with pytest.raises(ValueError, match="2 embeddings"):
        fad(items[:1], items)
    with caplog.at_level(logging.WARNING):
        fad(items, items)
    assert "10 and 10 embeddings of dimension 20" in caplog.text


@pytest.mark.parametrize("items", [np.zeros((3, 4, 5)), np.full((3, 4), np.nan)])
def test_wrong_shapes_and_nan_are_refused(items):
    with pytest.raises(ValueError, match="embeddings"):
        Gaussian.of(items)


# Embeddings


@pytest.fixture(scope="module")
def vggish(tmp_path_factory):
    """Random weights in the real file's layout."""
    from torchaudio.prototype.pipelines import VGGISH

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vggish") / "vggish.pt"
    torch.save(VGGISH.VGGish().state_dict(), path)
    return path


def test_vggish_embeds_every_096_seconds_before_its_last_relu(vggish):
    rng = np.random.default_rng(0)
    before, after = (open_embedding(f"vggish{r}", vggish, None, "cpu") for r in ("", "-relu"))
    for seconds, windows in ((0.1, 1), (0.99, 1), (3.0, 3)):
        audio = rng.uniform(-0.1, 0.1, (2, int(seconds * 44100))).astype(np.float32)
        found = before.embed(audio, 44100)
        assert found.shape == (windows, 128) and (found < 0).any()
        np.testing.assert_array_equal(after.embed(audio, 44100), np.maximum(found, 0))
    assert before.facts["embedding"] != after.facts["embedding"]
    assert before.facts["weights"] and before.facts["window_seconds"] == 0.96


def test_other_weights_are_not_vggish(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x\.pt"):
        _Vggish(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "weights"), [("vggish", None), ("vggish-relu", Path("absent.pt")), ("x", None)]
)
def test_an_embedding_that_cannot_be_opened_is_named(name, weights):
    with pytest.raises(ConfigError, match=rf"^embedding\b.*{name}"):
        open_embedding(name, weights, None, "cpu")


@pytest.mark.parametrize(("seconds", "windows"), [(0.2, 1), (1.0, 1), (3.7, 3)])
def test_mel_statistics_have_an_embedding_per_second(seconds, windows):
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (1, int(seconds * 16000)))
    assert _MelStatistics().embed(audio.astype(np.float32), 16000).shape == (windows, 32)
