"""What the tracks of a training batch are asked by: their own sound, their labels, or a mix.

The paper gives mixture and submixture CLAP's embedding of their own audio, the source a convex mix
of that and of its label's prompt, its weight uniform per example (section E.3); each track's is
dropped by itself, so that guidance has something to move away from.
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

_Mode = Literal["audio", "text", "mix", "none"]


@dataclass(frozen=True)
class ConditioningModes:
    """`training.conditioning`: what each track is asked by; without a CLAP all is by text."""

    mixture: _Mode = "audio"  # its own sound; paper: audio
    submixture: _Mode = "audio"  # its own sound; paper: audio
    source: _Mode = "mix"  # sound and label, weight uniform per item; paper: mix

    def of(self, track: Track, hears: bool) -> _Mode:
        """A track's mode; a conditioner that does not hear goes by the label."""
        mode = getattr(self, track.label)
        return mode if hears or mode == "none" else "text"


def training_embeddings(
    model: MGEModel,
    audio: Tensor | None,
    metadata: Sequence[Mapping[str, Any]],
    modes: ConditioningModes,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Tensor:
    """Embeddings (b, k, d) of a batch of `audio` (b, k, channels, samples), None if encoded ahead.

    An item's texts are in its metadata by the conditioner's id, e.g. `prompt`; the embeddings of
    what it sounds like, where audio is None, in `audio_embedding`, by track. Text weights are drawn
    from the items' own `generators`. ValueError if a track is to be asked by a sound that is not
    there.
    """
    tracks = [None] * len(metadata) if audio is None else audio
    weights = [torch.rand((), generator=generator).item() for generator in generators]
    embeddings = []
    for key in model.global_cond_ids:
        conditioner = model.conditioner.conditioners[key]
        prompts = [
            _item_prompts(item, item.get(key), sound, model.sample_rate, weight)
            for item, sound, weight in zip(metadata, tracks, weights, strict=True)
        ]
        if audio is None and conditioner.hears:
            _check_embedded(metadata, modes)
        chosen = [_choose(prompt, modes, conditioner) for prompt in prompts]
        embeddings.append(conditioner(chosen, device)[0])
    return sum(embeddings)


def drop_tracks(
    embeddings: Tensor, probability: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Zero each track's embedding by itself with `probability` (training for guidance); b k d."""
    uniform = torch.stack([torch.rand(NUM_TRACKS, generator=g) for g in generators])
    kept = (uniform >= probability).to(embeddings)
    return embeddings * kept[:, :, None]


def _check_embedded(metadata: Sequence[Mapping[str, Any]], modes: ConditioningModes) -> None:
    """Without this, tracks would be trained on zeros and nobody would know."""
    for track in Track:
        mode = modes.of(track, hears=True)
        embedded = all(track.label in item.get("audio_embedding", {}) for item in metadata)
        if mode in ("audio", "mix") and not embedded:
            raise ValueError(
                f"training.conditioning.{track.label} is {mode!r}, but the latents come without "
                "audio embeddings: run mge encode with this model config, or say 'text'"
            )


def _item_prompts(
    item: Mapping[str, Any],
    texts: Prompt,
    sound: Tensor | None,
    sample_rate: int,
    weight: float,
) -> dict[Track, TrackPrompt]:
    """All that is known of each track of an item: its text, its sound (k, channels, samples)."""
    asked = track_prompts(texts)
    embedded = item.get("audio_embedding", {})
    return {
        track: TrackPrompt(
            text=asked[track].text if track in asked else None,
            audio=None if sound is None else sound[track],
            sample_rate=sample_rate,
            embedding=embedded.get(track.label),
            text_weight=weight,
        )
        for track in Track
    }


def _choose(
    prompts: Mapping[Track, TrackPrompt], modes: ConditioningModes, conditioner: TrackConditioner
) -> dict[str, TrackPrompt]:
    """Of what is known of each track, what its mode asks by."""
    parts = {"audio": {"text": None}, "text": {"audio": None, "embedding": None}, "mix": {}}
    chosen = {track: modes.of(track, conditioner.hears) for track in prompts}
    return {
        track.label: replace(prompts[track], **parts[mode])
        for track, mode in chosen.items()
        if mode != "none"
    }
