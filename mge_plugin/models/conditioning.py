"""One embedding a track from what is asked of it: (batch, track, width), zeros where nothing is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from stable_audio_tools.models.conditioners import Conditioner, MultiConditioner
from torch import Tensor

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.models.clap import WIDTH, ClapConfig, ClapEmbedder
from mge_plugin.prompts import TrackPrompt, track_prompts
from mge_plugin.standins.hashed_words import HashedWords
from mge_plugin.standins.text_audio import TextAudioConfig, open_text_audio
from mge_plugin.tracks import NUM_TRACKS


class _Embedder(Protocol):
    """What a conditioner needs: texts in, unit vectors (texts, width) out.

    One that hears too has `embed_audio`, from pairs (audio, sample rate), see ClapEmbedder.
    """

    def embed_text(self, texts: Sequence[str]) -> Tensor: ...


class TrackConditioner(Conditioner):
    """Prompts (see `mge_plugin.prompts`) to embeddings (b, k, width), in SAT's conditioner form.

    With a text and an audio example the embedding is their convex mix (paper, section E.3),
    text_weight x text + (1 - text_weight) x audio, which is not scaled to length 1 again.
    """

    def __init__(self, embedder: _Embedder, width: int) -> None:
        super().__init__(width, width)
        self.embedder = embedder

    @property
    def hears(self) -> bool:
        """Whether audio can be embedded, not only text."""
        return hasattr(self.embedder, "embed_audio")

    def forward(self, prompts: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Embeddings (b, k, width) and a mask (b, k), 1 where a track has a prompt."""
        embeddings = torch.zeros(len(prompts), NUM_TRACKS, self.output_dim, device=device)
        mask = embeddings.new_zeros(embeddings.shape[:2])
        asked = {
            (item, track): track_prompt
            for item, prompt in enumerate(prompts)
            for track, track_prompt in track_prompts(prompt).items()
        }
        texts, examples = self._embed_texts(asked, device), self._embed_examples(asked, device)
        for place, prompt in asked.items():
            embeddings[place] = _mix(texts.get(place), examples.get(place), prompt.text_weight)
            mask[place] = 1.0
        return embeddings, mask

    def _embed_texts(
        self, asked: Mapping[Any, TrackPrompt], device: torch.device | str
    ) -> dict[Any, Tensor]:
        """By place, (width,); one call for all."""
        texts = {place: prompt.text for place, prompt in asked.items() if prompt.has_text}
        if not texts:
            return {}
        embedded = self.embedder.embed_text(list(texts.values())).to(device)
        return dict(zip(texts, embedded, strict=True))

    def _embed_examples(
        self, asked: Mapping[Any, TrackPrompt], device: torch.device | str
    ) -> dict[Any, Tensor]:
        """By place, (width,); one call for those that are not embedded yet."""
        ready = {
            place: self._of_width(prompt.embedding).to(device, torch.float32)
            for place, prompt in asked.items()
            if prompt.embedding is not None
        }
        audio = {
            place: (torch.as_tensor(p.audio).to(device), p.sample_rate)
            for place, p in asked.items()
            if p.audio is not None and place not in ready
        }
        if audio and not self.hears:
            kind = type(self.embedder).__name__
            raise ValueError(
                f"{kind} embeds texts only; an audio example needs type mge_clap or mge_text_audio"
            )
        if not audio:
            return ready
        embedded = self.embedder.embed_audio(list(audio.values())).to(device)
        return ready | dict(zip(audio, embedded, strict=True))

    def _of_width(self, embedding: Tensor) -> Tensor:
        if embedding.shape != (self.output_dim,):
            raise ValueError(
                f"an embedded example: expected shape ({self.output_dim},), "
                f"found {tuple(embedding.shape)}"
            )
        return embedding


def _mix(text: Tensor | None, example: Tensor | None, text_weight: float) -> Tensor:
    if text is None or example is None:
        return example if text is None else text
    return text_weight * text + (1 - text_weight) * example


@dataclass(frozen=True)
class ConditionerConfig:
    """One entry of `model.conditioning.configs`."""

    id: str  # the key of the prompts in a batch's metadata
    type: str  # mge_clap, mge_text_audio or mge_hashed_words
    config: dict = field(default_factory=dict)  # the type's own options


@dataclass(frozen=True)
class ConditioningConfig:
    """`model.conditioning`."""

    configs: tuple[ConditionerConfig, ...]  # the conditioners
    cond_dim: int  # width of every embedding; paper: 512

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.configs]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"configs: every id must be another, found {ids}")
        if self.cond_dim < 1:
            raise ConfigError(f"cond_dim must be 1 or more, found {self.cond_dim}")


@dataclass(frozen=True)
class _HashedWordsConfig:
    """`config` of the conditioner type `mge_hashed_words`: it has no options."""


def _hashed_words(config: Mapping[str, Any], width: int, where: str) -> _Embedder:
    parse_section(_HashedWordsConfig, config, where)
    return HashedWords(width)


def _clap(config: Mapping[str, Any], width: int, where: str) -> _Embedder:
    section = parse_section(ClapConfig, config, where)
    if width != WIDTH:
        raise ConfigError(f"{where}: CLAP's embeddings are {WIDTH} wide, cond_dim is {width}")
    return ClapEmbedder(section)


def _text_audio(config: Mapping[str, Any], width: int, where: str) -> _Embedder:
    return open_text_audio(parse_section(TextAudioConfig, config, where), width)


CONDITIONERS: dict[str, Callable[[Mapping[str, Any], int, str], _Embedder]] = {
    "mge_clap": _clap,
    "mge_text_audio": _text_audio,
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
