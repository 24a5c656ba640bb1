"""FAD against closed forms, its conditions, and the embeddings it is measured in."""

import logging

import numpy as np
import pytest
import scipy.linalg
import torch

from mge_plugin.config import ConfigError
from mge_plugin.evaluation.metrics import (
    Gaussian,
    MelStatistics,
    Vggish,
    frechet_distance,
    open_embedding,
)


def exactly(mean, covariance, count=4000, seed=0):
    """Items whose mean and covariance are exactly these."""
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((count, len(mean)))
    items -= items.mean(axis=0)
    items = items @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(items.T))).T)
    return items @ np.linalg.cholesky(covariance).T + mean


def test_the_distance_of_two_gaussians_in_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    sets = [exactly(np.array([m]), np.array([[s**2]])) for m, s in ((1.0, 2.0), (4.0, 0.5))]
    found = frechet_distance(*map(Gaussian.of, sets))
    assert found.distance == pytest.approx(9.0 + 2.25, abs=1e-9)
    assert (found.items, found.dimension, found.rank) == ((4000, 4000), 1, (1, 1))


def test_the_distance_is_the_papers_formula():
    rng = np.random.default_rng(3)
    means = rng.standard_normal((2, 5))
    covariances = [a @ a.T + 0.1 * np.eye(5) for a in rng.standard_normal((2, 5, 5))]
    found = frechet_distance(
        *(Gaussian.of(exactly(*p)) for p in zip(means, covariances, strict=True))
    )
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert found.distance == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("count", [2, 3, 63, 64, 65, 500])
def test_a_set_is_at_no_distance_from_itself_whatever_its_size(count):
    """Never negative, never complex, with singular covariances too."""
    items = np.random.default_rng(0).standard_normal((count, 64))
    found = frechet_distance(Gaussian.of(items), Gaussian.of(items))
    assert 0.0 <= found.distance < 1e-6
    assert found.rank == (min(count - 1, 64),) * 2


def test_the_order_of_the_sets_does_not_matter():
    a, b = np.random.default_rng(0).standard_normal((2, 50, 8))
    one = frechet_distance(Gaussian.of(a), Gaussian.of(b + 1)).distance
    other = frechet_distance(Gaussian.of(b + 1), Gaussian.of(a)).distance
    assert one == pytest.approx(other, abs=1e-9) and one > 7


def test_pieces_are_the_whole():
    items = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)
    pieces = Gaussian(6)
    for piece in np.array_split(items, 7):
        pieces.add(piece)
    whole = Gaussian.of(items)
    np.testing.assert_allclose(pieces.covariance, np.cov(items.T), atol=1e-6)
    np.testing.assert_allclose(pieces.covariance, whole.covariance, atol=1e-12)


def test_one_item_has_no_covariance():
    items = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"FAD: a set needs 2 embeddings or more.*found 1"):
        frechet_distance(Gaussian.of(items[:1]), Gaussian.of(items))


def test_fewer_items_than_dimensions_are_told(caplog):
    items = np.random.default_rng(0).standard_normal((10, 20))
    with caplog.at_level(logging.WARNING):
        frechet_distance(Gaussian.of(items), Gaussian.of(items))
    assert "10 and 10 embeddings of dimension 20: covariances are singular" in caplog.text


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        (np.zeros((3, 4, 5)), r"expected \(item, dimension\), found \(3, 4, 5\)"),
        (np.full((3, 4), np.nan), "NaN or infinite numbers"),
    ],
)
def test_what_are_no_embeddings_is_refused(items, wrong):
    with pytest.raises(ValueError, match=wrong):
        Gaussian.of(items)


@pytest.fixture(scope="module")
def vggish(tmp_path_factory):
    """Random weights in the real file's layout."""
    from torchaudio.prototype.pipelines import VGGISH

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vggish") / "vggish.pt"
    torch.save(VGGISH.VGGish().state_dict(), path)
    return path


@pytest.mark.parametrize(("seconds", "windows"), [(0.1, 1), (0.99, 1), (3.0, 3)])
def test_vggish_has_an_embedding_every_096_seconds(vggish, seconds, windows):
    embedding = Vggish(vggish)
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (2, int(seconds * 44100)))
    found = embedding.embed(audio.astype(np.float32), 44100)
    assert found.shape == (windows, 128)
    assert embedding.told["weights"] and embedding.told["window_seconds"] == 0.96


def test_other_weights_are_not_vggish(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x.pt: not VGGish's weights, differs in"):
        Vggish(tmp_path / "x.pt")


def test_an_embedding_is_opened_by_name(vggish):
    assert isinstance(open_embedding("mel", None, None, "cpu"), MelStatistics)
    assert isinstance(open_embedding("vggish", vggish, None, "cpu"), Vggish)
    with pytest.raises(
        ConfigError, match=r"vggish: its weights are needed.*no --embedding-weights"
    ):
        open_embedding("vggish", None, None, "cpu")
    with pytest.raises(ConfigError, match=r"clap: the model's conditioner embeds texts only"):
        open_embedding("clap", None, None, "cpu")
    with pytest.raises(ConfigError, match="expected vggish, clap or mel, found 'x'"):
        open_embedding("x", None, None, "cpu")


@pytest.mark.parametrize(("seconds", "windows"), [(0.2, 1), (1.0, 1), (3.7, 3)])
def test_mel_statistics_have_an_embedding_a_second(seconds, windows):
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (1, int(seconds * 16000)))
    assert MelStatistics().embed(audio.astype(np.float32), 16000).shape == (windows, 32)
