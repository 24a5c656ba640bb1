"""Metrics of audio against a reference, of sets of embeddings, and the embeddings themselves.

All audio is (channels, samples) float32.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import resample, rms_db, to_channels
from mge_plugin.evaluation import EMBEDDINGS
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.models.checkpoints import read_checkpoint

logger = logging.getLogger(__name__)

SILENT_DB = -120.0  # level that silence counts as, so that a mean exists


def level(audio: np.ndarray) -> float:
    """RMS in dBFS; silence is -120."""
    return max(SILENT_DB, float(rms_db(audio)))


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, dB (arXiv 1811.02508, eq. 5).

    -inf for a silent estimate, +inf for a scaled copy, NaN for a silent reference.
    """
    target, residual = _projected(estimate, reference)
    return _ratio_db(target, residual)


def si_sar(estimate: np.ndarray, reference: np.ndarray, others: np.ndarray) -> float:
    """Scale-invariant signal-to-artifacts ratio, dB: what neither reference nor `others` explain.

    The residual loses its projection on `others` (arXiv 1811.02508, section 3.3).
    """
    target, residual = _projected(estimate, reference)
    _, interference = _projected(others, reference)  # the part of `others` that is not reference
    energy = interference @ interference
    if energy > 0:
        residual = residual - (residual @ interference / energy) * interference
    return _ratio_db(target, residual)


def sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-distortion ratio at the reference's level, dB; NaN for a silent reference."""
    estimate, reference = _pair(estimate, reference)
    return _ratio_db(reference, estimate - reference) if reference.any() else float("nan")


def _projected(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The estimate's part along the reference, and the rest; NaN for a silent reference."""
    estimate, reference = _pair(estimate, reference)
    energy = reference @ reference
    scale = estimate @ reference / energy if energy > 0 else np.nan
    return scale * reference, estimate - scale * reference


def _pair(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if estimate.shape != reference.shape:
        raise ValueError(f"estimate {estimate.shape} and reference {reference.shape} differ")
    return estimate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()


def _ratio_db(signal: np.ndarray, noise: np.ndarray) -> float:
    """Ratio of the powers in dB; no signal is -inf, also without noise."""
    powers = float(signal @ signal), float(noise @ noise)
    if powers[0] == 0:
        return float("-inf")
    return 10 * float(np.log10(powers[0] / powers[1])) if powers[1] != 0 else float("inf")


_SAMPLE_RATE = 16000  # Hz
_LOG_MEL_FLOOR = 1e-5


def log_mel_l1(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of two log-mel spectrograms in mono; 0 is equal.

    The paper's extraction metric (section 3). Its settings are not stated there; these are ours:
    16 kHz, window 1024, hop 160, 64 mel bands from 0 to 8 kHz, power, natural logarithm with a
    floor of 1e-5 on both sides.
    """
    _check_length(estimate, reference)
    return float(np.abs(log_mel(estimate, sample_rate) - log_mel(reference, sample_rate)).mean())


def log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Natural-log mel powers, (64, frames)."""
    mono = resample(to_channels(audio, 1), sample_rate, _SAMPLE_RATE)[0]
    mel = librosa.feature.melspectrogram(
        y=mono, sr=_SAMPLE_RATE, n_fft=1024, hop_length=160, n_mels=64, fmin=0.0, fmax=8000.0
    )
    return np.log(np.maximum(mel, _LOG_MEL_FLOOR))


def _check_length(estimate: np.ndarray, reference: np.ndarray) -> None:
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference differ in length: {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples"
        )


_FFT_SIZES = (512, 1024, 2048)
_SPECTRAL_FLOOR = 1e-5


def spectral_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Multi-resolution spectral distance in mono: a check on Log-Mel L1 without mel filters.

    Mean over resolutions of spectral convergence and log-magnitude L1 (arXiv 1910.11480, eqs. 5
    to 7); 0 is equal.
    """
    _check_length(estimate, reference)
    found, true = (to_channels(audio, 1)[0] for audio in (estimate, reference))
    return float(np.mean([_distance(found, true, size) for size in _FFT_SIZES]))


def _distance(estimate: np.ndarray, reference: np.ndarray, size: int) -> float:
    found, true = (
        np.abs(librosa.stft(a, n_fft=size, hop_length=size // 4)) for a in (estimate, reference)
    )
    norm = np.linalg.norm(true)
    convergence = np.linalg.norm(true - found) / norm if norm > 0 else float(found.any())
    logs = [np.log(np.maximum(m, _SPECTRAL_FLOOR)) for m in (found, true)]
    return float(convergence + np.abs(logs[0] - logs[1]).mean())


class Gaussian:
    """Mean and covariance of embeddings that arrive in any number of pieces, in float64.

    Products are of deviations from the running mean, so the origin of the embeddings costs no
    precision (Chan, Golub and LeVeque 1979, eq. 2.1).
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimension)
        self.scatter = np.zeros((dimension, dimension))

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "Gaussian":
        """The Gaussian of (item, dimension) embeddings."""
        gaussian = cls(embeddings.shape[-1])
        gaussian.add(embeddings)
        return gaussian

    def add(self, embeddings: np.ndarray) -> None:
        """Add (item, dimension) embeddings; NaN or Inf raises."""
        size = len(self.mean)
        if embeddings.ndim != 2 or embeddings.shape[1] != size:
            raise ValueError(f"embeddings: expected (item, {size}), found {embeddings.shape}")
        if not np.isfinite(embeddings).all():
            raise ValueError("embeddings: NaN or infinite numbers")
        if not len(embeddings):
            return
        values = embeddings.astype(np.float64)
        offset = values[0].copy()
        values -= offset
        centre = values.mean(axis=0)
        values -= centre
        delta, total = offset + centre - self.mean, self.count + len(values)
        self.scatter += values.T @ values
        self.scatter += np.outer(delta, delta) * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """(dimension, dimension), the unbiased estimate."""
        return self.scatter / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> dict[str, Any]:
    """The paper's FAD (arXiv 1812.08466) with items, dimension and rank of both covariances.

        |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

    The trace of the root is the sum of the singular values of cov_a^(1/2) cov_b^(1/2). Both roots
    are of symmetric matrices, so the distance is real and never negative for any number of items.
    Fewer than two items raise, fewer than the dimension warn.
    """
    for gaussian in (a, b):
        if gaussian.count < 2:
            raise ValueError(
                f"FAD: a set needs 2 embeddings or more for a covariance, found {gaussian.count}"
            )
    dimension = len(a.mean)
    if min(a.count, b.count) <= dimension:
        logger.warning(
            "FAD: %d and %d embeddings of dimension %d: covariances are singular, the distance is "
            "biased; compare only sets of the same size",
            *(a.count, b.count, dimension),
        )
    (root_a, rank_a), (root_b, rank_b) = (_root(g.covariance) for g in (a, b))
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    shift = float(((a.mean - b.mean) ** 2).sum())
    traces = float(np.trace(root_a @ root_a) + np.trace(root_b @ root_b))
    return {
        "fad": max(0.0, shift + traces - 2 * float(overlap)),
        "items": [a.count, b.count],
        "dimension": dimension,
        "rank": [rank_a, rank_b],
    }


def _root(covariance: np.ndarray) -> tuple[np.ndarray, int]:
    """The symmetric square root and the rank; eigenvalues that rounding made negative are 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rank = int((values > values.max(initial=0.0) * len(values) * np.finfo(float).eps).sum())
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, rank


class Embedding(Protocol):
    """Audio to embeddings."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """`embedding` (a name), `window_seconds` and `weights` (a hash): shown with each figure."""

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """(channels, samples) to (window, dimension)."""


_VGGISH_RATE, _VGGISH_WINDOW = 16000, 0.96  # Hz, seconds


class _Vggish:
    """VGGish (arXiv 1609.09430) in torchaudio's implementation; weights from a local file.

    Windows of 0.96 s without overlap, 128 numbers each, before any post-processing. FAD is usually
    measured before the network's last ReLU, which sets about half of the numbers to 0; torchaudio
    ends after it (`relu=True`).
    """

    def __init__(self, weights: Path, device: str = "cpu", relu: bool = False) -> None:
        from torchaudio.prototype.pipelines import VGGISH  # builds a pipeline when imported

        self.processor = VGGISH.get_input_processor()
        self.network = VGGISH.VGGish().eval().requires_grad_(False)
        _load(self.network, weights)
        if not relu:
            self.network.embedding_network = self.network.embedding_network[:-1]
        self.network.to(device)
        self.device = device
        name = f"VGGish {'after' if relu else 'before'} the last ReLU"
        key = checkpoint_fingerprint(weights)[:16]
        self.facts = {"embedding": name, "window_seconds": _VGGISH_WINDOW, "weights": key}

    @torch.no_grad()
    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        mono = resample(to_channels(audio, 1), sample_rate, _VGGISH_RATE)[0]
        shortest = round((_VGGISH_WINDOW + 0.025) * _VGGISH_RATE)
        mono = np.pad(mono, (0, max(0, shortest - len(mono))))
        examples = self.processor(torch.from_numpy(mono))
        return self.network(examples.to(self.device)).cpu().numpy()


class ConditionerEmbedding:
    """The embedder of the model's own conditioner (CLAP or a stand-in), one window per segment."""

    def __init__(self, embedder: Any, name: str, weights: str, device: str = "cpu") -> None:
        self.embedder, self.name, self.device = embedder, name, device
        self.facts = {"embedding": name, "window_seconds": None, "weights": weights}

    @classmethod
    def of(cls, model: Any, device: str) -> "ConditionerEmbedding | None":
        """The conditioner's embedder, None if it embeds texts only."""
        for key, conditioner in model.conditioner.conditioners.items():
            if conditioner.supports_audio:
                name = type(conditioner.embedder).__name__
                return cls(conditioner.embedder, name, f"conditioner {key}", device)
        return None

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        example = torch.from_numpy(audio).to(self.device), sample_rate
        return self.embedder.embed_audio([example]).float().cpu().numpy()

    def similarity(self, text: str, audio: np.ndarray, sample_rate: int) -> float:
        """The CLAP score: cosine of the embeddings of a text and of audio, -1 to 1.

        Silence is embedded like any other audio, so a silent estimate has a score too.
        """
        a = self.embedder.embed_text([text])[0].float().cpu()
        (b,) = self.embed(audio, sample_rate)
        return float(torch.cosine_similarity(a, torch.from_numpy(b), dim=0))


class _MelStatistics:
    """Mean and deviation of log-mel bands per second: no weights, for a quick look and for tests.

    It is no published metric; its figures are named `mel`, never VGGish.
    """

    facts: Mapping[str, Any] = {"embedding": "mel", "window_seconds": 1.0, "weights": None}

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        bands = log_mel(audio, sample_rate)[::4]  # (16, frame), 100 frames per second
        count = max(1, bands.shape[1] // 100)
        pieces = np.array_split(bands[:, : count * 100], count, axis=1)
        return np.stack([np.concatenate([p.mean(axis=1), p.std(axis=1)]) for p in pieces])


def open_embedding(name: str, weights: Path | None, model: Any, device: str) -> Embedding:
    """Open an embedding by name: vggish and vggish-relu need weights, clap is the model's own."""
    if name == "mel":
        return _MelStatistics()
    if name in ("vggish", "vggish-relu"):
        if weights is None or not weights.is_file():
            raise ConfigError(
                f"embedding {name}: its weights are needed, torchaudio's models/vggish.pt, found "
                f"{weights or 'no --embedding-weights'}"
            )
        return _Vggish(weights, device, relu=name == "vggish-relu")
    if name == "clap":
        embedding = ConditionerEmbedding.of(model, device)
        if embedding is None:
            raise ConfigError("embedding clap: the model's conditioner embeds texts only")
        return embedding
    raise ConfigError(f"embedding: expected one of {', '.join(EMBEDDINGS)}, found {name!r}")


def _load(network: nn.Module, weights: Path) -> None:
    found: Mapping[str, Tensor] = read_checkpoint(weights)
    expected = network.state_dict()
    if found.keys() != expected.keys():
        missing = sorted(set(expected) ^ set(found))[:4]
        raise ConfigError(f"{weights}: not VGGish's weights, differs in {', '.join(missing)}")
    network.load_state_dict(dict(found))


_RESAMPLES = 2000


def interval(values: Sequence[float], songs: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of `values`, by bootstrap over songs.

    Windows of one song are not independent, so whole songs are drawn. NaN values are left out;
    with a single song there is no interval: NaN.
    """
    groups: dict[str, list[float]] = {}
    for value, song in zip(values, songs, strict=True):
        if np.isfinite(value):
            groups.setdefault(song, []).append(value)
    if len(groups) < 2:
        return float("nan"), float("nan")
    sums = np.array([[sum(group), len(group)] for group in groups.values()])
    rng = np.random.default_rng(seed)
    drawn = sums[rng.integers(len(sums), size=(_RESAMPLES, len(sums)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)
