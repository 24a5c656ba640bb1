"""One embedding a track from what is asked of it: (batch, track, width), zeros where nothing is."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from stable_audio_tools.models.conditioners import Conditioner, MultiConditioner
from torch import Tensor

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.prompts import track_texts
from mge_plugin.tracks import NUM_TRACKS

STOP_WORDS = frozenset("a an and by from in of on or some sound sounds the this to with".split())


class TextEmbedder(Protocol):
    """What a conditioner needs: texts in, unit vectors (texts, width) out."""

    def embed_text(self, texts: Sequence[str]) -> Tensor: ...


def drop_tracks(embeddings: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Zero each track's embedding by itself with `probability` (training for guidance); b k d."""
    uniform = torch.rand(embeddings.shape[:2], generator=generator, device=generator.device)
    kept = (uniform >= probability).to(embeddings)
    return embeddings * kept[:, :, None]


class HashedWords:
    """A deterministic embedding of a prompt's words that needs no weights.

    Each word has a fixed random direction drawn from a hash of it; a text is the mean of its words',
    scaled to length 1. It knows neither synonyms nor audio: for smoke tests and demos only.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Tensor:
        words = re.findall(r"\w+", text.lower())
        words = [w for w in words if w not in STOP_WORDS] or words
        if not words:
            return torch.zeros(self.width)
        total = torch.from_numpy(sum(self._direction(word) for word in words))
        return torch.nn.functional.normalize(total.float(), dim=0)

    def _direction(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.width)


class TrackConditioner(Conditioner):
    """Prompts to embeddings (b, k, width), in SAT's conditioner form."""

    def __init__(self, embedder: TextEmbedder, width: int) -> None:
        super().__init__(width, width)
        self.embedder = embedder

    def forward(self, prompts: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns the embeddings (b, k, width) and a mask (b, k) of the tracks that have a prompt."""
        embeddings = torch.zeros(len(prompts), NUM_TRACKS, self.output_dim)
        mask = torch.zeros(len(prompts), NUM_TRACKS)
        entries = [(i, k, s) for i, p in enumerate(prompts) for k, s in track_texts(p).items()]
        if entries:
            embedded = self.embedder.embed_text([text for *_, text in entries]).float().cpu()
            for (i, track, _), embedding in zip(entries, embedded, strict=True):
                embeddings[i, track] = embedding
                mask[i, track] = 1.0
        return embeddings.to(device), mask.to(device)


@dataclass(frozen=True)
class ConditionerConfig:
    """One entry of `model.conditioning.configs`."""

    id: str
    type: str
    config: dict = field(default_factory=dict)


@dataclass(frozen=True)
class HashedWordsConfig:
    """`config` of the conditioner type `mge_hashed_words`: it has no options."""


def _hashed_words(config: dict, width: int, where: str) -> TextEmbedder:
    parse_section(HashedWordsConfig, config, where)
    return HashedWords(width)


CONDITIONERS = {"mge_hashed_words": _hashed_words}


def create_conditioner(config: Mapping[str, Any]) -> MultiConditioner:
    """Build SAT's MultiConditioner from `model.conditioning`, of our conditioner types."""
    where = "model.conditioning"
    if unknown := set(config) - {"configs", "cond_dim"}:
        raise ConfigError(f"{where}: unknown keys {sorted(unknown)}, known: cond_dim, configs")
    conditioners = {}
    for i, entry in enumerate(config.get("configs", [])):
        place = f"{where}.configs[{i}]"
        parsed = parse_section(ConditionerConfig, entry, place)
        build = choose(f"{place}.type", parsed.type, CONDITIONERS)
        embedder = build(parsed.config, config["cond_dim"], f"{place}.config")
        conditioners[parsed.id] = TrackConditioner(embedder, config["cond_dim"])
    return MultiConditioner(conditioners)
