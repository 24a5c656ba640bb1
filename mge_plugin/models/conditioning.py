"""One embedding a track from what is asked of it: (batch, track, width), zeros where nothing is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from stable_audio_tools.models.conditioners import Conditioner, MultiConditioner
from torch import Tensor

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.models.hashed_words import HashedWords
from mge_plugin.prompts import track_texts
from mge_plugin.tracks import NUM_TRACKS


class TextEmbedder(Protocol):
    """What a conditioner needs: texts in, unit vectors (texts, width) out."""

    def embed_text(self, texts: Sequence[str]) -> Tensor: ...


def drop_tracks(embeddings: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Zero each track's embedding by itself with `probability` (training for guidance); b k d."""
    uniform = torch.rand(embeddings.shape[:2], generator=generator, device=generator.device)
    kept = (uniform >= probability).to(embeddings)
    return embeddings * kept[:, :, None]


class TrackConditioner(Conditioner):
    """Prompts to embeddings (b, k, width), in SAT's conditioner form."""

    def __init__(self, embedder: TextEmbedder, width: int) -> None:
        super().__init__(width, width)
        self.embedder = embedder

    def forward(self, prompts: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Embeddings (b, k, width) and a mask (b, k), 1 where a track has a prompt."""
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

    id: str  # the key of the prompts in a batch's metadata
    type: str
    config: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ConditioningConfig:
    """`model.conditioning`."""

    configs: tuple[ConditionerConfig, ...]
    cond_dim: int  # width of every embedding

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.configs]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"configs: every id must be another, found {ids}")
        if self.cond_dim < 1:
            raise ConfigError(f"cond_dim must be 1 or more, found {self.cond_dim}")


@dataclass(frozen=True)
class HashedWordsConfig:
    """`config` of the conditioner type `mge_hashed_words`: it has no options."""


def _hashed_words(config: Mapping[str, Any], width: int, where: str) -> TextEmbedder:
    parse_section(HashedWordsConfig, config, where)
    return HashedWords(width)


CONDITIONERS: dict[str, Callable[[Mapping[str, Any], int, str], TextEmbedder]] = {
    "mge_hashed_words": _hashed_words,
}


def create_conditioner(config: Mapping[str, Any]) -> MultiConditioner:
    """Build SAT's MultiConditioner from `model.conditioning`, of our conditioner types."""
    where = "model.conditioning"
    section = parse_section(ConditioningConfig, config, where)
    conditioners = {}
    for i, entry in enumerate(section.configs):
        build = choose(f"{where}.configs[{i}].type", entry.type, CONDITIONERS)
        embedder = build(entry.config, section.cond_dim, f"{where}.configs[{i}].config")
        conditioners[entry.id] = TrackConditioner(embedder, section.cond_dim)
    try:
        return MultiConditioner(conditioners)
    except KeyError as error:  # torch does not take every name for a module
        raise ConfigError(f"{where}.configs: an id that cannot be used, {error.args[0]}") from error
