"""Confidence intervals of means by resampling songs: windows of one song are not independent.

Signal-to-distortion ratios of waveforms, dB; higher is better.

Log-Mel L1, the paper's figure for extraction (section 3); 0 is perfect.

The paper does not state its settings. Here: 16 kHz, window 1024, hop 160, 64 mel bands from 0 to
8 kHz, power, natural logarithm with a floor of 1e-5 on both sides.

Multi-resolution spectral distance, a check on Log-Mel L1 that no mel filters stand behind.

Mean over resolutions of spectral convergence and log-magnitude L1 (arXiv 1910.11480, eqs. 5 to 7).

Frechet distance between two sets of embeddings (paper's FAD: arXiv 1812.08466).

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

The trace of the root is the sum of the singular values of cov_a^(1/2) cov_b^(1/2): both roots are
of symmetric matrices, so nothing becomes complex or negative, whatever the number of items.

Embeddings that FAD is measured in, each named with its window and the hash of its weights.

CLAP score: cosine of what was asked in words and what was made, by the model's own ears.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import resample, to_channels
from mge_plugin.evaluation.segments import Segment
from mge_plugin.models.checkpoints import read_checkpoint
from mge_plugin.prompts import label_prompt

logger = logging.getLogger(__name__)


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant (arXiv 1811.02508), over all samples; NaN where the reference is silent."""
    estimate, reference = _pair(estimate, reference)
    energy = reference @ reference
    if energy == 0:
        return float("nan")
    target = (estimate @ reference / energy) * reference
    return _ratio(target, estimate - target)


def sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """With the reference at its own level, over all samples; NaN where it is silent."""
    estimate, reference = _pair(estimate, reference)
    return _ratio(reference, estimate - reference) if reference.any() else float("nan")


def _pair(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if estimate.shape != reference.shape:
        raise ValueError(f"estimate {estimate.shape} and reference {reference.shape} differ")
    return estimate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()


def _ratio(signal: np.ndarray, noise: np.ndarray) -> float:
    """Power of one over the other's, dB."""
    powers = float(signal @ signal), float(noise @ noise)
    if powers[1] == 0:
        return float("inf")
    return 10 * float(np.log10(powers[0] / powers[1])) if powers[0] > 0 else float("-inf")


_SAMPLE_RATE = 16000  # Hz
LOG_MEL_FLOOR = 1e-5


def log_mel_l1(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of the log-mel spectrograms of two (channels, samples), in mono."""
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference differ in length: {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples"
        )
    return float(np.abs(log_mel(estimate, sample_rate) - log_mel(reference, sample_rate)).mean())


def log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """(channels, samples) to natural-log mel powers (64, frames)."""
    mono = resample(to_channels(audio, 1), sample_rate, _SAMPLE_RATE)[0]
    mel = librosa.feature.melspectrogram(
        y=mono, sr=_SAMPLE_RATE, n_fft=1024, hop_length=160, n_mels=64, fmin=0.0, fmax=8000.0
    )
    return np.log(np.maximum(mel, LOG_MEL_FLOOR))


_FFT_SIZES = (512, 1024, 2048)
_SPECTRAL_FLOOR = 1e-5


def spectral_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Of two (channels, samples), in mono; 0 is equal."""
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference differ in length: {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples"
        )
    pair = [to_channels(audio, 1)[0] for audio in (estimate, reference)]
    return float(np.mean([_distance(*pair, size) for size in _FFT_SIZES]))


def _distance(estimate: np.ndarray, reference: np.ndarray, size: int) -> float:
    found, true = (
        np.abs(librosa.stft(a, n_fft=size, hop_length=size // 4)) for a in (estimate, reference)
    )
    norm = np.linalg.norm(true)
    convergence = np.linalg.norm(true - found) / norm if norm > 0 else float(found.any())
    logs = [np.log(np.maximum(m, _SPECTRAL_FLOOR)) for m in (found, true)]
    return float(convergence + np.abs(logs[0] - logs[1]).mean())


@dataclass(frozen=True)
class _FrechetDistance:
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


def frechet_distance(a: Gaussian, b: Gaussian) -> _FrechetDistance:
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
    return _FrechetDistance(distance, (a.count, b.count), dimension, (rank_a, rank_b))


def _root(covariance: np.ndarray) -> tuple[np.ndarray, int]:
    """The symmetric square root and the rank; what is negative by rounding is 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rank = int((values > values.max(initial=0.0) * len(values) * np.finfo(float).eps).sum())
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, rank


VGGISH_RATE, VGGISH_WINDOW = 16000, 0.96  # Hz, seconds


class Embedding(Protocol):
    """Audio to embeddings."""

    @property
    def told(self) -> Mapping[str, Any]:
        """Name, window in seconds, and hash of the weights: printed with every figure."""

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """(channels, samples) to (window, dimension)."""


class Vggish:
    """VGGish (arXiv 1609.09430) by torchaudio, as the paper has it; weights from a local file.

    Windows of 0.96 s without overlap, 128 numbers each, before any post-processing.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        from torchaudio.prototype.pipelines import VGGISH

        self.processor = VGGISH.get_input_processor()
        self.network = VGGISH.VGGish().eval().requires_grad_(False)
        _load(self.network, weights)
        self.network.to(device)
        self.device, self.hash = device, _file_hash(weights)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"embedding": "VGGish", "window_seconds": VGGISH_WINDOW, "weights": self.hash}

    @torch.no_grad()
    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        mono = resample(to_channels(audio, 1), sample_rate, VGGISH_RATE)[0]
        shortest = round((VGGISH_WINDOW + 0.025) * VGGISH_RATE)
        mono = np.pad(mono, (0, max(0, shortest - len(mono))))
        examples = self.processor(torch.from_numpy(mono))
        return self.network(examples.to(self.device)).cpu().numpy()


class ConditionerEmbedding:
    """The model's own ears: CLAP, or whatever its conditioner embeds audio with; one a segment."""

    def __init__(self, embedder: Any, name: str, weights: str, device: str = "cpu") -> None:
        self.embedder, self.name, self.weights = embedder, name, weights
        self.device = device

    @property
    def told(self) -> Mapping[str, Any]:
        return {"embedding": self.name, "window_seconds": None, "weights": self.weights}

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        example = torch.from_numpy(audio).to(self.device), sample_rate
        return self.embedder.embed_audio([example]).float().cpu().numpy()

    def embed_text(self, text: str) -> np.ndarray:
        """(dimension,)."""
        return self.embedder.embed_text([text])[0].float().cpu().numpy()


class MelStatistics:
    """Mean and deviation of log-mel bands over 1 s: no weights, for a quick look and for tests.

    It is no published metric; figures of it are called `mel`, never VGGish.
    """

    told: Mapping[str, Any] = {"embedding": "mel", "window_seconds": 1.0, "weights": None}

    def embed(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        pass

        bands = log_mel(audio, sample_rate)[::4]  # (16, frame), 100 frames a second
        count = max(1, bands.shape[1] // 100)
        pieces = np.array_split(bands[:, : count * 100], count, axis=1)
        return np.stack([np.concatenate([p.mean(axis=1), p.std(axis=1)]) for p in pieces])


def _file_hash(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def open_embedding(name: str, weights: Path | None, model: Any, device: str) -> Embedding:
    """By name: vggish (needs its weights), clap (the model's conditioner), mel."""
    if name == "mel":
        return MelStatistics()
    if name == "vggish":
        if weights is None or not weights.is_file():
            raise ConfigError(
                f"embedding vggish: its weights are needed, torchaudio's models/vggish.pt, found "
                f"{weights or 'no --embedding-weights'}"
            )
        return Vggish(weights, device)
    if name == "clap":
        ears = hearing(model, device)
        if ears is None:
            raise ConfigError("embedding clap: the model's conditioner embeds texts only")
        return ears
    raise ConfigError(f"embedding: expected vggish, clap or mel, found {name!r}")


def hearing(model: Any, device: str) -> ConditionerEmbedding | None:
    """The model's own ears, None if its conditioner embeds texts only."""
    conditioners = {} if model is None else model.conditioner.conditioners
    for key, conditioner in conditioners.items():
        if conditioner.hears:
            name = type(conditioner.embedder).__name__
            return ConditionerEmbedding(conditioner.embedder, name, f"conditioner {key}", device)
    return None


def _load(network: nn.Module, weights: Path) -> None:
    found: Mapping[str, Tensor] = read_checkpoint(weights)
    expected = network.state_dict()
    if found.keys() != expected.keys():
        missing = sorted(set(expected) ^ set(found))[:4]
        raise ConfigError(f"{weights}: not VGGish's weights, differs in {', '.join(missing)}")
    network.load_state_dict(dict(found))


def _embed_all(embedding: Embedding, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
    """(item, dimension) of all clips."""
    return np.concatenate([embedding.embed(clip, sample_rate) for clip in clips])


class ClapScore:
    """Scores by an embedder of texts and audio, and bears its name: figures of two never compare.

    Silence is embedded like anything else, so that a silent estimate shrinks no set.
    """

    def __init__(self, ears: ConditionerEmbedding) -> None:
        self.ears = ears

    @property
    def name(self) -> str:
        """The embedder's: ClapEmbedder, TextAudio."""
        return self.ears.name

    def score(self, segment: Segment, audio: np.ndarray) -> float:
        """From -1 to 1, of the prompt that names all that is wanted, and (channels, samples)."""
        text = self.ears.embed_text(label_prompt(segment.wanted))
        (heard,) = self.ears.embed(audio, segment.sample_rate)
        return float(torch.cosine_similarity(*map(torch.from_numpy, (text, heard)), dim=0))


_RESAMPLES = 2000
_LEVEL = 0.95


def interval(values: Sequence[float], songs: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of `values`, of which each belongs to a song.

    NaN values are left out; with one song there is no interval: NaN.
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
    ends = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(ends[0]), float(ends[1])
