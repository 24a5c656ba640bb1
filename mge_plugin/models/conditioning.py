"""Prompts to one embedding per track: (batch, track, width), zeros where a track has none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

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
    """Embeds texts as unit vectors (texts, width)."""

    def embed_text(self, texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class _AudioEmbedder(_Embedder, Protocol):
    """Also embeds pairs (audio, sample rate), see ClapEmbedder."""

    def embed_audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor: ...


_Rows = tuple[list[int], Tensor]  # places (item x track) and their embeddings (place, width)


class TrackConditioner(Conditioner):
    """Prompts (see `mge_plugin.prompts`) to embeddings (b, k, width), in SAT's conditioner form.

    A text together with an audio example gives their convex mix (paper, section E.3),
    text_weight x text + (1 - text_weight) x audio, which is not scaled to length 1 again.
    """

    def __init__(self, embedder: _Embedder, width: int) -> None:
        super().__init__(width, width)
        self.embedder = embedder

    @property
    def supports_audio(self) -> bool:
        """Whether audio can be embedded, not only text."""
        return isinstance(self.embedder, _AudioEmbedder)

    def forward(self, prompts: Sequence[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Embeddings (b, k, width) and a mask (b, k), 1 where a track has a prompt."""
        by_place = {
            item * NUM_TRACKS + track: track_prompt
            for item, prompt in enumerate(prompts)
            for track, track_prompt in track_prompts(prompt).items()
        }
        shares = torch.zeros(2, len(prompts) * NUM_TRACKS)  # of text and of audio
        for place, prompt in by_place.items():
            both = prompt.has_text and prompt.has_example
            text = prompt.text_weight if both else float(prompt.has_text)
            shares[:, place] = torch.tensor([text, 1 - text])
        mask = (shares.sum(dim=0) > 0).float()
        shares = shares.to(device)
        embeddings = shares[0, :, None] * self._grid(self._texts(by_place), len(prompts), device)
        for embedded in self._examples(by_place, device):
            embeddings += shares[1, :, None] * self._grid(embedded, len(prompts), device)
        shape = (len(prompts), NUM_TRACKS)
        return embeddings.unflatten(0, shape), mask.to(device).view(shape)

    def _grid(self, embedded: _Rows, items: int, device: torch.device | str) -> Tensor:
        """Rows at their places, zeros elsewhere: (item x track, width)."""
        places, rows = embedded
        grid = torch.zeros(items * NUM_TRACKS, self.output_dim, device=device)
        if places:
            grid[torch.tensor(places, device=device)] = rows.to(device, torch.float32)
        return grid

    def _texts(self, by_place: Mapping[int, TrackPrompt]) -> _Rows:
        """Embeddings of all texts, in one call."""
        texts = {place: p.text or "" for place, p in by_place.items() if p.has_text}
        rows = self.embedder.embed_text([*texts.values()]) if texts else torch.empty(0)
        return list(texts), rows

    def _examples(
        self, by_place: Mapping[int, TrackPrompt], device: torch.device | str
    ) -> Iterator[_Rows]:
        """Embeddings of the audio examples: those that come embedded, the others in one call."""
        ready = {
            place: self._of_width(prompt.embedding)
            for place, prompt in by_place.items()
            if prompt.embedding is not None
        }
        audio = {
            place: (torch.as_tensor(p.audio).to(device), p.sample_rate or 0)
            for place, p in by_place.items()
            if p.audio is not None and place not in ready
        }
        embedder = self.embedder
        if audio and not isinstance(embedder, _AudioEmbedder):
            kind = type(embedder).__name__
            raise ValueError(
                f"{kind} embeds texts only; an audio example needs type mge_clap or mge_text_audio"
            )
        if ready:
            yield list(ready), torch.stack([*ready.values()])
        if audio and isinstance(embedder, _AudioEmbedder):
            yield list(audio), embedder.embed_audio([*audio.values()])

    def _of_width(self, embedding: Tensor) -> Tensor:
        if embedding.shape != (self.output_dim,):
            raise ValueError(
                f"an embedded example: expected shape ({self.output_dim},), "
                f"found {tuple(embedding.shape)}"
            )
        return embedding.float()


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
            raise ConfigError(f"configs: ids must differ, found {ids}")
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


_CONDITIONERS: dict[str, Callable[[Mapping[str, Any], int, str], _Embedder]] = {
    "mge_clap": _clap,
    "mge_text_audio": _text_audio,
    "mge_hashed_words": _hashed_words,
}


def create_conditioner(config: Mapping[str, Any]) -> MultiConditioner:
    """Build SAT's MultiConditioner from `model.conditioning`; every type is one of ours."""
    where = "model.conditioning"
    section = parse_section(ConditioningConfig, config, where)
    conditioners = {}
    for i, entry in enumerate(section.configs):
        build = choose(f"{where}.configs[{i}].type", entry.type, _CONDITIONERS)
        embedder = build(entry.config, section.cond_dim, f"{where}.configs[{i}].config")
        conditioners[entry.id] = TrackConditioner(embedder, section.cond_dim)
    try:
        return MultiConditioner(conditioners)
    except KeyError as error:  # torch does not take every name for a module
        raise ConfigError(f"{where}.configs: an id that cannot be used, {error.args[0]}") from error
