"""Contrastive training: its loss in closed form, what is paired, that it learns."""

import json
import math
from pathlib import Path

import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.standins.fit import (
    _contrastive_loss,
    _create_text_audio,
    _fit_text_audio,
    _pairs_of,
)
from mge_plugin.standins.text_audio import TextAudio, TextAudioConfig

RATE = 16000
CONFIG = Path(__file__).parents[2] / "model_configs" / "mge_dit_minislakh.json"


def test_the_loss_of_pairs_that_agree_and_differ_from_all_others():
    axes, scale = torch.eye(3), torch.tensor(2.0)
    expected = math.log(1 + 2 * math.exp(-math.exp(2.0)))
    found = _contrastive_loss(axes, axes, ["a", "b", "c"], scale).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_equal_texts_are_no_mistakes():
    vectors, scale = torch.eye(2)[[0, 0, 1]], torch.tensor(3.0)
    told = _contrastive_loss(vectors, vectors, ["a", "a", "b"], scale)
    untold = _contrastive_loss(vectors, vectors, ["a", "c", "b"], scale)
    torch.testing.assert_close(told, untold)  # cross-entropy of either is log 2 in the first rows
    apart = _contrastive_loss(torch.eye(3), torch.eye(3), ["a", "a", "b"], scale)
    assert apart > told


def item(source, wanted="the sound of the bass"):
    return {"prompt": {"source": wanted}, "labels": {"mixture": ["piano", "bass", "bass"]}}, source


def test_sources_and_mixtures_are_paired_with_what_they_are_and_silence_with_nothing():
    tone = torch.sin(torch.arange(2000) / 5)
    reals = torch.stack([torch.stack([tone, tone, tone]), torch.stack([tone, tone, 0 * tone])])
    sounds, texts = _pairs_of(reals, [item(tone)[0], item(tone)[0]], "prompt")
    mixture = "The sound of the bass and piano"
    assert texts == [mixture, "the sound of the bass", mixture]
    assert len(sounds) == 3


def batches(count):
    """Low tones are basses, high ones flutes."""
    draw = torch.Generator().manual_seed(0)
    time = torch.arange(8000) / RATE
    for _ in range(count):
        reals, metadata = [], []
        for _ in range(8):
            low = torch.rand((), generator=draw) < 0.5
            hertz = (80 if low else 2000) * (1 + torch.rand((), generator=draw))
            tone = torch.sin(2 * torch.pi * hertz * time)
            reals.append(torch.stack([tone, 0 * tone, tone]))
            label = "bass" if low else "flute"
            prompt = {"source": f"The sound of the {label}"}
            metadata.append({"prompt": prompt, "labels": {"mixture": [label]}})
        yield torch.stack(reals), metadata


def test_it_learns_which_sound_is_which_word():
    torch.manual_seed(0)
    embedder = TextAudio(TextAudioConfig(channels=16, bands=16, words=64), width=8)
    loss = _fit_text_audio(embedder, batches(30), RATE, steps=30)
    assert loss < 2.75  # log 16 of sixteen that are all alike
    assert not any(p.requires_grad for p in embedder.parameters())
    ((reals, metadata),) = batches(1)
    sounds = embedder.embed_audio([(audio[2:], RATE) for audio in reals])
    words = embedder.embed_text(["bass", "flute"])
    heard = ["bass" if s[0] > s[1] else "flute" for s in sounds @ words.T]
    assert heard == [m["labels"]["mixture"][0] for m in metadata]


def test_a_config_with_one_is_needed():
    config = json.loads(CONFIG.read_text())
    key, embedder = _create_text_audio(config)
    assert (key, type(embedder)) == ("prompt", TextAudio)
    config["model"]["conditioning"]["configs"][0] |= {"type": "mge_hashed_words", "config": {}}
    with pytest.raises(ConfigError, match="one conditioner of type mge_text_audio, found 0 of 1"):
        _create_text_audio(config)
