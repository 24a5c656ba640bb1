"""The conditioning of a training batch: each track's own audio, its label's prompt, or a mix.

In the paper mixture and submixture have CLAP's embedding of their own audio; the source has a
convex mix of that and of its label's prompt, with a weight that is uniform per example (section
E.3). Each track's embedding is dropped independently, which trains the unconditional prediction of
guidance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mge_plugin.models.conditioning import TrackConditioner
from mge_plugin.models.mge import MGEModel
from mge_plugin.prompts import Prompt, TrackPrompt, track_prompts
from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.randomness import ItemRandomness

_Mode = Literal["audio", "text", "mix", "none"]


@dataclass(frozen=True)
class ConditioningModes:
    """`training.conditioning`; a conditioner without audio support uses the text in every mode."""

    mixture: _Mode = "audio"  # its own audio; paper: audio
    submixture: _Mode = "audio"  # its own audio; paper: audio
    source: _Mode = "mix"  # audio and label, weight uniform per item; paper: mix

    def of(self, track: Track, supports_audio: bool) -> _Mode:
        """A track's mode; without audio support it is the label's text."""
        mode = getattr(self, track.label)
        return mode if supports_audio or mode == "none" else "text"


def training_embeddings(
    model: MGEModel,
    audio: Tensor | None,
    metadata: Sequence[Mapping[str, Any]],
    modes: ConditioningModes,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Tensor:
    """Embeddings (b, k, d) of a batch of `audio` (b, k, channels, samples), None if pre-encoded.

    An item's texts are in its metadata under the conditioner's id, e.g. `prompt`; where audio is
    None, embeddings of its tracks' audio are in `audio_embedding`, by track. Text weights are drawn
    from the items' own `generators`. Raises ValueError where a mode needs audio that is missing.
    """
    audios = [None] * len(metadata) if audio is None else audio
    weights = [torch.rand((), generator=generator).item() for generator in generators]
    embeddings = []
    for key in model.global_cond_ids:
        conditioner = model.conditioner.conditioners[key]
        prompts = [
            _item_prompts(item, item.get(key), tracks, model.sample_rate, weight)
            for item, tracks, weight in zip(metadata, audios, weights, strict=True)
        ]
        if audio is None and conditioner.supports_audio:
            _check_embedded(metadata, modes)
        chosen = [_choose(prompt, modes, conditioner) for prompt in prompts]
        embeddings.append(conditioner(chosen, device)[0])
    return sum(embeddings)


def drawn_as_kept(probability: float, draws: ItemRandomness) -> Tensor:
    """1 for tracks (b, k) that keep their embedding, 0 with `probability`, each by itself; CPU."""
    return (draws.uniform("dropout", NUM_TRACKS) >= probability).float()


def _check_embedded(metadata: Sequence[Mapping[str, Any]], modes: ConditioningModes) -> None:
    """Raise where tracks would be trained on zeros in place of audio embeddings."""
    for track in Track:
        mode = modes.of(track, supports_audio=True)
        embedded = all(track.label in item.get("audio_embedding", {}) for item in metadata)
        if mode in ("audio", "mix") and not embedded:
            raise ValueError(
                f"training.conditioning.{track.label} is {mode!r}, but the latents come without "
                "audio embeddings: run mge encode with this model config, or use 'text'"
            )


def _item_prompts(
    item: Mapping[str, Any],
    texts: Prompt,
    audio: Tensor | None,
    sample_rate: int,
    weight: float,
) -> dict[Track, TrackPrompt]:
    """Text and audio (k, channels, samples) or audio embedding of each track of an item."""
    by_track = track_prompts(texts)
    embedded = item.get("audio_embedding", {})
    return {
        track: TrackPrompt(
            text=by_track[track].text if track in by_track else None,
            audio=None if audio is None else audio[track],
            sample_rate=sample_rate,
            embedding=embedded.get(track.label),
            text_weight=weight,
        )
        for track in Track
    }


def _choose(
    prompts: Mapping[Track, TrackPrompt], modes: ConditioningModes, conditioner: TrackConditioner
) -> dict[str, TrackPrompt]:
    """The parts of each track's prompt that its mode uses."""
    parts: dict[str, dict[str, Any]] = {
        "audio": {"text": None},
        "text": {"audio": None, "embedding": None},
        "mix": {},
    }
    chosen = {track: modes.of(track, conditioner.supports_audio) for track in prompts}
    return {
        track.label: replace(prompts[track], **parts[mode])
        for track, mode in chosen.items()
        if mode != "none"
    }
