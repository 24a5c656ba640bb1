"""The small text-audio encoder: CLAP's interface, in a checkpoint, in a conditioner."""

import pytest
import torch
from safetensors.torch import save_file

from mge_plugin.config import ConfigError
from mge_plugin.models.checkpoints import CheckpointError
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.standins.text_audio import TextAudio, TextAudioConfig, open_text_audio

SMALL = TextAudioConfig(channels=8, bands=16, words=64)


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return TextAudio(SMALL, width=12)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_texts_and_sounds_become_unit_vectors(embedder):
    texts = embedder.embed_text(["the sound of the bass", "piano", ""])
    sounds = embedder.embed_audio([(noise(2, 44100), 44100), (noise(300), 16000)])
    assert texts.shape == (3, 12)
    assert sounds.shape == (2, 12)
    torch.testing.assert_close(torch.cat([texts, sounds]).norm(dim=1), torch.ones(5))


def test_a_text_is_its_words(embedder):
    one, other, third = embedder.embed_text(["The sound of the bass", "BASS", "the drums"])
    torch.testing.assert_close(one, other)
    assert (one - third).norm() > 1e-3


def test_a_sound_is_the_same_at_any_level_in_any_company(embedder):
    sound, other = noise(1, 16000), noise(1, 9000).cos()
    alone = embedder.embed_audio([(sound, 16000)])
    together = embedder.embed_audio([(other, 16000), (0.1 * sound, 16000)])
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=0.0)
    assert embedder.embed_audio([(torch.zeros(1, 16000), 16000)]).isfinite().all()


def conditioning(**options):
    entry = {"id": "prompt", "type": "mge_text_audio", "config": options}
    return {"configs": [entry], "cond_dim": 12}


def test_its_weights_are_of_the_models_checkpoint_and_never_trained():
    conditioner = create_conditioner(conditioning(channels=8, bands=16, words=64))
    assert not [p for p in conditioner.parameters() if p.requires_grad]
    assert "conditioners.prompt.embedder.texts.words.weight" in conditioner.state_dict()
    assert conditioner.conditioners["prompt"].supports_audio
    embeddings, mask = conditioner.conditioners["prompt"](
        [{"source": {"audio": noise(1, 16000), "sample_rate": 16000}}, "a ballad"], "cpu"
    )
    assert embeddings.shape == (2, 3, 12)
    assert mask.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_weights_come_from_a_file(embedder, tmp_path):
    path = tmp_path / "text_audio.safetensors"
    save_file(embedder.state_dict(), path)
    opened = open_text_audio(
        TextAudioConfig(ckpt_path=str(path), channels=8, bands=16, words=64), width=12
    )
    torch.testing.assert_close(opened.embed_text(["bass"]), embedder.embed_text(["bass"]))
    with pytest.raises(CheckpointError, match="does not fit"):
        open_text_audio(TextAudioConfig(ckpt_path=str(path)), width=12)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="channels must be 1 or more, found 0"):
        TextAudioConfig(channels=0)
    with pytest.raises(
        ConfigError, match=r"no such file 'nowhere\.safetensors'; mge fit-text-audio"
    ):
        create_conditioner(conditioning(ckpt_path="nowhere.safetensors"))
