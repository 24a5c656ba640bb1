"""Frechet distance between two sets of embeddings (paper's FAD: arXiv 1812.08466).

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

The trace of the root is the sum of the singular values of cov_a^(1/2) cov_b^(1/2): both roots are
of symmetric matrices, so nothing becomes complex or negative, whatever the number of items.
"""

import logging
from dataclasses import dataclass

import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrechetDistance:
    """A distance, and what it rests on."""

    distance: float
    items: tuple[int, int]  # embeddings of both sets
    dimension: int
    rank: tuple[int, int]  # of both covariances

    def described(self) -> dict[str, object]:
        """As plain data."""
        return {
            "fad": self.distance,
            "items": list(self.items),
            "dimension": self.dimension,
            "rank": list(self.rank),
        }


class Gaussian:
    """Mean and covariance of embeddings that come in any number of pieces, in float64."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.total = np.zeros(dimension)
        self.products = np.zeros((dimension, dimension))

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "Gaussian":
        """Of (item, dimension) embeddings."""
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings: expected (item, dimension), found {embeddings.shape}")
        gaussian = cls(embeddings.shape[1])
        gaussian.add(embeddings)
        return gaussian

    def add(self, embeddings: np.ndarray) -> None:
        """Take (item, dimension) embeddings in; NaN or Inf raises."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.total):
            raise ValueError(
                f"embeddings: expected (item, {len(self.total)}), found {embeddings.shape}"
            )
        if not np.isfinite(embeddings).all():
            raise ValueError("embeddings: NaN or infinite numbers")
        values = embeddings.astype(np.float64)
        self.count += len(values)
        self.total += values.sum(axis=0)
        self.products += values.T @ values

    @property
    def mean(self) -> np.ndarray:
        """(dimension,)."""
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(dimension, dimension), the unbiased estimate."""
        centred = self.products - self.count * np.outer(self.mean, self.mean)
        return centred / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> FrechetDistance:
    """Between two sets; fewer than two items raise, fewer than the dimension warn."""
    for gaussian in (a, b):
        if gaussian.count < 2:
            raise ValueError(
                f"FAD: a set needs 2 embeddings or more for a covariance, found {gaussian.count}"
            )
    dimension = len(a.total)
    if min(a.count, b.count) <= dimension:
        logger.warning(
            "FAD: %d and %d embeddings of dimension %d: covariances are singular, the distance is "
            "biased; compare only sets of the same size",
            a.count,
            b.count,
            dimension,
        )
    (root_a, rank_a), (root_b, rank_b) = (_root(g.covariance) for g in (a, b))
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    shift = float(((a.mean - b.mean) ** 2).sum())
    traces = float(np.trace(root_a @ root_a) + np.trace(root_b @ root_b))
    distance = max(0.0, shift + traces - 2 * float(overlap))
    return FrechetDistance(distance, (a.count, b.count), dimension, (rank_a, rank_b))


def _root(covariance: np.ndarray) -> tuple[np.ndarray, int]:
    """The symmetric square root and the rank; what is negative by rounding is 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rank = int((values > values.max(initial=0.0) * len(values) * np.finfo(float).eps).sum())
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, rank
