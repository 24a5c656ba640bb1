"""Embeddings that FAD is measured in, each named with its window and the hash of its weights."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import resample, to_channels
from mge_plugin.models.checkpoints import read_checkpoint

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
        self.device, self.hash = device, file_hash(weights)

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
        from mge_plugin.evaluation.log_mel import log_mel

        bands = log_mel(audio, sample_rate)[::4]  # (16, frame), 100 frames a second
        count = max(1, bands.shape[1] // 100)
        pieces = np.array_split(bands[:, : count * 100], count, axis=1)
        return np.stack([np.concatenate([p.mean(axis=1), p.std(axis=1)]) for p in pieces])


def file_hash(path: Path) -> str:
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


def embed_all(embedding: Embedding, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
    """(item, dimension) of all clips."""
    return np.concatenate([embedding.embed(clip, sample_rate) for clip in clips])
