"""Contrastive training of a small text-audio encoder on the tracks of triplets.

Of each item the source and the mixture are sounds, the prompt and the list of what sounds are their
texts. Many items of a batch are asked by the same text, so a sound has as many right texts as there
are (Khosla et al. 2020, "Supervised Contrastive Learning", with one tower a side): the target of a
row is spread evenly over its equals.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mge_plugin.config import ConfigError
from mge_plugin.fitting.loading import endless, open_loader, write_weights
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.models.text_audio import TextAudio, to_mono
from mge_plugin.prompts import label_prompt, track_prompts
from mge_plugin.tracks import NUM_TRACKS, Track

START = 2.6  # logarithm of the first temperature's inverse; CLIP's
AUDIBLE = 1e-3  # RMS of a sound that is learned from


def contrastive_loss(sounds: Tensor, texts: Tensor, names: Sequence[str], scale: Tensor) -> Tensor:
    """Of unit vectors (n, width) each; equal `names` are the same text."""
    same = torch.tensor([[a == b for b in names] for a in names], device=sounds.device).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = scale.exp() * sounds @ texts.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pairs_of(
    reals: Tensor, metadata: Sequence[dict[str, Any]], key: str
) -> tuple[list[Tensor], list[str]]:
    """Audible sounds (samples,) and their texts of a batch of triplets (b, k*channels, samples)."""
    sounds, texts = [], []
    for item, audio in zip(metadata, reals.unflatten(1, (NUM_TRACKS, -1)), strict=True):
        asked = track_prompts(item[key]).get(Track.SOURCE)
        named = {Track.MIXTURE: label_prompt(sorted(set(item["labels"]["mixture"])))}
        if asked is not None and asked.has_text:
            named[Track.SOURCE] = asked.text
        for track, text in named.items():
            if audio[track].square().mean().sqrt() > AUDIBLE:
                sounds.append(audio[track].mean(dim=0))
                texts.append(text)
    return sounds, texts


def fit_text_audio(
    embedder: TextAudio, batches: Iterable[Any], rate: int, steps: int, key: str = "prompt"
) -> float:
    """Train in place for `steps` batches of triplets; the last loss, averaged over some steps."""
    embedder.requires_grad_(True)
    scale = nn.Parameter(torch.tensor(START, device=embedder.texts.words.weight.device))
    parameters = [*embedder.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    average = None
    with tqdm(total=steps, desc="text and audio", unit="step") as bar:
        for reals, metadata in batches:
            sounds, texts = pairs_of(reals, metadata, key)
            heard = torch.stack([to_mono(sound, rate) for sound in sounds]).to(scale.device)
            loss = contrastive_loss(embedder.sounds(heard), embedder.texts(texts), texts, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{average:.3f}")
            if bar.n == steps:
                break
    embedder.requires_grad_(False)
    return average


def create_text_audio(config: Mapping[str, Any]) -> tuple[str, TextAudio]:
    """The `mge_text_audio` conditioner of a model config and its id; none, or two, raise."""
    conditioners = create_conditioner(config["model"]["conditioning"]).conditioners
    ours = {k: c.embedder for k, c in conditioners.items() if isinstance(c.embedder, TextAudio)}
    if len(ours) != 1:
        raise ConfigError(
            "model.conditioning: expected one conditioner of type mge_text_audio, found "
            f"{len(ours)} of {len(conditioners)}"
        )
    return next(iter(ours.items()))


def fit_text_audio_file(
    config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    path: Path,
    *,
    steps: int,
    batch_size: int,
    device: str,
    seed: int,
) -> float:
    """Train the text-audio encoder of `config` on triplets and write its weights; the last loss."""
    torch.manual_seed(seed)
    key, embedder = create_text_audio(config)
    embedder.to(device)
    batches = endless(open_loader(dataset_config, config, batch_size))
    loss = fit_text_audio(embedder, batches, config["sample_rate"], steps, key)
    write_weights(embedder.state_dict(), path)
    return loss
