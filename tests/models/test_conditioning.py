import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.models.conditioning import TrackConditioner, create_conditioner
from mge_plugin.standins.hashed_words import HashedWords
from mge_plugin.tracks import Track

INSTRUMENTS = ["bass", "drums", "guitar", "piano", "organ", "strings", "brass", "choir", "harp"]
WIDTH = 64
CONFIG = {"configs": [{"id": "prompt", "type": "mge_hashed_words", "config": {}}]}


def embed(*texts, width=WIDTH):
    return HashedWords(width).embed_text(texts)


def conditioner(**changes):
    return create_conditioner(CONFIG | {"cond_dim": WIDTH} | changes)


def test_an_embedding_has_length_1():
    embeddings = embed("bass", "the sound of the drums and piano", "a", "Ålesund 1987")
    assert_close(embeddings.norm(dim=1), torch.ones(4))


def test_only_the_words_that_say_something_count():
    bass, *others = embed("bass", "the sound of the bass", "The sound of the Bass!", "BASS")
    for other in others:
        assert_close(other, bass, rtol=0, atol=0)
    assert_close(*embed("bass and drums", "drums, bass"))


def test_a_text_without_words_is_zeros_and_stop_words_alone_are_not():
    nothing, stop_words = embed("?!", "the sound")
    assert not nothing.any()
    assert stop_words.any()


def test_different_instruments_are_nearly_orthogonal():
    similarity = embed(*INSTRUMENTS) @ embed(*INSTRUMENTS).T
    others = similarity[~torch.eye(len(INSTRUMENTS), dtype=torch.bool)]
    assert others.abs().max() < 0.4  # of directions drawn by chance in 64 dimensions, sd 0.125
    assert others.abs().mean() < 0.125
    assert (
        embed(*INSTRUMENTS, width=4096).mul(embed("bass", width=4096)).sum(1)[1:].abs().max() < 0.1
    )


def test_two_instruments_are_about_as_near_to_each():
    both, bass, drums, piano = embed("bass and drums", "bass", "drums", "piano")
    assert both @ bass > 0.6
    assert both @ drums > 0.6
    assert abs(both @ piano) < 0.4


def test_an_embedding_is_the_same_in_every_process():
    code = (
        "from mge_plugin.standins.hashed_words import HashedWords\n"
        "print(HashedWords(8).embed_text(['the sound of the bass'])[0].tolist())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(embed("the sound of the bass", width=8)[0].tolist())


def test_an_embedding_is_the_same_in_every_version():
    golden = torch.tensor([-0.7569, -0.4597, 0.2191, 0.4096])
    assert_close(embed("bass", width=4)[0], golden, rtol=0, atol=1e-4)


def test_each_track_has_its_own_prompt_and_zeros_where_nothing_is_asked():
    prompts = [{"source": "bass", "mixture": "a slow song"}, {"submixture": "piano"}, {}, None]
    embeddings, mask = conditioner()([{"prompt": prompt} for prompt in prompts], "cpu")["prompt"]
    bass, song, piano = embed("bass", "a slow song", "piano")
    expected = torch.zeros(4, len(Track), WIDTH)
    expected[0, Track.SOURCE], expected[0, Track.MIXTURE] = bass, song
    expected[1, Track.SUBMIXTURE] = piano
    assert_close(embeddings, expected)
    assert_close(mask, expected.any(dim=2).float())


def test_a_plain_text_is_the_mixtures():
    embeddings, mask = conditioner()([{"prompt": "a slow song"}], "cpu")["prompt"]
    assert_close(embeddings[0, Track.MIXTURE], embed("a slow song")[0])
    assert mask.tolist() == [[1, 0, 0]]


def test_blank_texts_ask_nothing():
    embeddings, mask = conditioner()([{"prompt": {"source": " ", "mixture": ""}}], "cpu")["prompt"]
    assert not embeddings.any()
    assert not mask.any()


def test_a_conditioner_adds_no_weights_to_a_checkpoint():
    assert not list(conditioner().parameters())
    assert not conditioner().state_dict()


class Ear(HashedWords):
    """Hears an example's mean."""

    def embed_audio(self, examples):
        return torch.stack([torch.full((self.width,), a.mean() * rate) for a, rate in examples])


def test_text_and_example_are_mixed_by_the_texts_share():
    ear = TrackConditioner(Ear(WIDTH), WIDTH)
    example = {"audio": torch.ones(2, 9), "sample_rate": 3}
    prompts = [
        {"source": {"text": "bass", **example, "text_weight": 0.25}},
        {"source": {"text": "bass", **example}},
        {"source": example},
        {"source": {"text": "bass", "embedding": torch.full((WIDTH,), 7.0), "text_weight": 0.0}},
    ]
    (bass,) = embed("bass")
    embeddings, mask = ear(prompts, "cpu")
    mixed, half, heard, embedded = embeddings[:, Track.SOURCE]
    assert_close(mixed, 0.25 * bass + 0.75 * 3.0)
    assert_close(half, 0.5 * bass + 0.5 * 3.0)
    assert_close(heard, torch.full((WIDTH,), 3.0))
    assert_close(embedded, torch.full((WIDTH,), 7.0))
    assert mask.sum() == 4


def test_everything_is_embedded_in_one_call_a_kind():
    calls = []

    class Counting(Ear):
        def embed_text(self, texts):
            calls.append(("text", len(texts)))
            return super().embed_text(texts)

        def embed_audio(self, examples):
            calls.append(("audio", len(examples)))
            return super().embed_audio(examples)

    example = {"audio": torch.ones(1, 9), "sample_rate": 3}
    prompts = [{"source": {"text": "bass", **example}, "mixture": example}, {"source": "drums"}]
    TrackConditioner(Counting(WIDTH), WIDTH)(prompts, "cpu")
    assert calls == [("text", 2), ("audio", 2)]


def test_an_embedded_example_of_another_width_is_told():
    prompt = {"source": {"embedding": torch.ones(3)}}
    with pytest.raises(ValueError, match=r"expected shape \(64,\), found \(3,\)"):
        TrackConditioner(Ear(WIDTH), WIDTH)([prompt], "cpu")


def test_a_conditioner_that_does_not_hear_says_so():
    prompt = {"source": {"audio": torch.ones(1, 9), "sample_rate": 3}}
    with pytest.raises(ValueError, match="HashedWords embeds texts only; an audio example needs"):
        conditioner()([{"prompt": prompt}], "cpu")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"cond_dm": 3}, "model.conditioning: unknown key 'cond_dm', did you mean 'cond_dim'"),
        ({"cond_dim": 0}, "model.conditioning: cond_dim must be 1 or more, found 0"),
        ({"cond_dim": "64"}, "model.conditioning.cond_dim: expected a whole number, found '64'"),
        ({"configs": [{"id": "prompt"}]}, r"conditioning.configs\[0\]: missing key 'type'"),
        (
            {"configs": [{"id": "prompt", "type": "mge_hashed_word"}]},
            r"configs\[0\].type: unknown value 'mge_hashed_word', did you mean 'mge_hashed_words'",
        ),
        (
            {"configs": [{"id": "a", "type": "mge_hashed_words", "config": {"seed": 1}}]},
            r"configs\[0\].config: unknown key 'seed', known: none",
        ),
        ({"configs": CONFIG["configs"] * 2}, "ids must differ"),
        ({"configs": [CONFIG["configs"][0] | {"id": "a.b"}]}, "an id that cannot be used"),
        ({"configs": [CONFIG["configs"][0] | {"id": ""}]}, "an id that cannot be used"),
    ],
)
def test_a_config_that_cannot_be_used_is_told_in_words(changes, wrong):
    with pytest.raises(ConfigError, match=wrong):
        conditioner(**changes)
