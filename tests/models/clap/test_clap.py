"""Our CLAP is laion-clap's, offline, once a process, and says what is wrong with its files."""

import copy

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.models.checkpoints import CheckpointError
from mge_plugin.models.clap import audio
from mge_plugin.models.clap.config import ClapConfig
from mge_plugin.models.clap.loading import read_weights
from mge_plugin.models.conditioning import TrackConditioner, create_conditioner
from mge_plugin.tracks import Track

TEXTS = ["The sound of the bass guitar", "violin", "drums and a woman singing", ""]
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def theirs_of_audio(reference, waveform):
    return torch.from_numpy(reference.get_audio_embedding_from_data(waveform[None].numpy()))[0]


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("position_ids", [True, False])
def test_texts_are_embedded_as_laion_clap_does(
    reference, save_clap, embedder, prefix, position_ids
):
    ours = embedder(save_clap(prefix, position_ids)).embed_text(TEXTS)
    assert_close(ours, torch.from_numpy(reference.get_text_embedding(TEXTS)), **CLOSE)
    assert_close(ours.norm(dim=1), torch.ones(len(TEXTS)))


def test_one_text_alone_is_embedded_as_among_others(published, embedder):
    among = embedder(published).embed_text(TEXTS)
    alone = [embedder(published).embed_text([text])[0] for text in TEXTS[:2]]
    assert_close(torch.stack(alone), among[:2], **CLOSE)


@pytest.mark.parametrize("name", ["short", "whole"])
def test_audio_is_embedded_as_laion_clap_does(reference, published, embedder, songs, name):
    song = getattr(songs, name)
    ours = embedder(published).embed_audio([(song, 48_000)])
    assert_close(ours[0], theirs_of_audio(reference, song), **CLOSE)


def test_long_audio_is_the_mean_of_its_windows(reference, published, embedder, songs):
    song = songs.long
    windows = [song[:480_000], song[480_000:960_000], song[-480_000:]]
    mean = torch.stack([theirs_of_audio(reference, window) for window in windows]).mean(dim=0)
    ours = embedder(published)
    first = ours.embed_audio([(song, 48_000)])
    assert_close(first[0], F.normalize(mean, dim=0), **CLOSE)
    assert torch.equal(ours.embed_audio([(song, 48_000)]), first)


def test_a_batch_of_different_lengths_is_each_by_itself(published, embedder, songs):
    ours = embedder(published)
    examples = [(song, 48_000) for song in (songs.short, songs.long, songs.whole)]
    alone = torch.cat([ours.embed_audio([example]) for example in examples])
    assert_close(ours.embed_audio(examples), alone, **CLOSE)


def test_audio_of_any_rate_and_channels_is_made_mono_at_48_khz():
    tone = torch.sin(torch.arange(16_000) / 16_000 * 440 * 2 * torch.pi)
    (window,) = audio.prepare(torch.stack([tone, tone * 0]), 16_000)
    expected = 0.5 * torch.sin(torch.arange(48_000) / 48_000 * 440 * 2 * torch.pi)
    assert_close(window[1000:47_000], expected[1000:47_000], atol=2e-3, rtol=0)
    assert window.shape == (480_000,)


def test_samples_are_rounded_to_16_bits_as_laion_clap_does():
    from training.data import float32_to_int16, int16_to_float32  # laion-clap's own

    values = torch.linspace(-1.5, 1.5, 480_000)
    theirs = int16_to_float32(float32_to_int16(values.numpy()))
    assert np.array_equal(audio.prepare(values, 48_000)[0].numpy(), theirs)


@pytest.mark.parametrize(
    ("samples", "wrong"),
    [(torch.zeros(1, 0), "has no samples"), (torch.tensor([0.0, torch.nan]), "NaN or infinite")],
)
def test_an_example_that_is_no_audio_is_refused(samples, wrong):
    with pytest.raises(ValueError, match=wrong):
        audio.prepare(samples, 48_000)


def test_one_instance_is_shared_and_a_text_embedded_once(published, embedder, monkeypatch):
    from mge_plugin.models.clap import model

    loads, calls = [], []
    load, texts = model.load_clap, model.Clap._texts
    monkeypatch.setattr(model, "load_clap", lambda *a: loads.append(a) or load(*a))
    monkeypatch.setattr(model.Clap, "_texts", lambda s, t: calls.append(list(t)) or texts(s, t))
    first = embedder(published)
    second = copy.copy(first)
    assert loads == []  # nothing before it is needed
    first.embed_text(["bass", "drums", "bass"])
    first.embed_text(["drums"])
    second.embed_text(["violin"])
    assert len(loads) == 1
    assert calls[1:] == [["bass", "drums"], ["violin"]]  # the first call is the self-check's


def test_texts_are_kept_on_disk_by_checkpoint(published, embedder, tmp_path, monkeypatch):
    kept = embedder(published, cache_dir=str(tmp_path)).embed_text(TEXTS)
    again = embedder(published, cache_dir=str(tmp_path))
    monkeypatch.setattr(type(again), "_clap", lambda _: pytest.fail("was loaded"))
    assert torch.equal(again.embed_text(TEXTS), kept)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == len(TEXTS)


def test_another_checkpoint_does_not_read_its_neighbours_texts(
    published, save_clap, embedder, tmp_path
):
    def louder(weights):
        weights["module.text_projection.0.weight"] = -weights["module.text_projection.0.weight"]

    first = embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"])
    second = embedder(save_clap(change=louder), cache_dir=str(tmp_path)).embed_text(["bass"])
    assert not torch.equal(first, second)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_of_the_cache_is_made_anew(published, embedder, tmp_path):
    kept = embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"])
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(b"half")
    assert torch.equal(embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"]), kept)


def test_clap_is_in_no_checkpoint_and_not_halved(published, embedder):
    conditioner = TrackConditioner(embedder(published), 512)
    before, _ = conditioner([{"source": "bass"}], "cpu")
    conditioner.half()
    after, _ = conditioner([{"source": "bass"}, {"source": "violin"}], "cpu")
    assert not conditioner.state_dict()
    assert not list(conditioner.parameters())
    assert after.dtype == torch.float32
    assert_close(after[0, Track.SOURCE], before[0, Track.SOURCE])


def test_embeddings_do_not_depend_on_autocast(published, embedder, songs):
    ours = embedder(published)
    plain = ours.embed_audio([(songs.short, 48_000)])
    text = ours.embed_text(["bass"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedder(published).embed_audio([(songs.short, 48_000)]), plain)
        assert torch.equal(embedder(published).embed_text(["bass"]), text)


def test_transformers_is_as_it_was(published, embedder):
    classes = (transformers.RobertaTokenizer, transformers.RobertaModel, transformers.BertTokenizer)
    before = [cls.from_pretrained for cls in classes]
    embedder(published).embed_text(["bass"])
    assert [cls.from_pretrained for cls in classes] == before


def drop(key):
    return lambda weights: weights.pop(f"module.{key}")


def parallel(weights):
    weights["module.text_projection.2.weight"] *= 0


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (drop("audio_projection.0.weight"), r"1 missing \(audio_projection.0.weight\)"),
        (drop("text_branch.pooler.dense.bias"), r"1 missing \(text_branch.pooler.dense.bias\)"),
        (lambda w: w.update({"module.other": torch.ones(1)}), r"1 unexpected \(other\)"),
        (drop("text_branch.embeddings.word_embeddings.weight"), "not a CLAP checkpoint"),
        (parallel, r"hears no difference between prompts \(cosine 1.0000"),
    ],
)
def test_weights_that_do_not_fit_are_told(save_clap, embedder, change, wrong):
    with pytest.raises(ValueError, match=wrong):
        embedder(save_clap(change=change)).embed_text(["bass"])


def test_a_file_that_is_no_checkpoint_is_told(tmp_path, published):
    path = tmp_path / "clap.pt"
    path.write_bytes(published.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable CLAP checkpoint"):
        read_weights(path)
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match="found keys such as conv"):
        read_weights(path)


def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path, published):
    content = torch.load(published, weights_only=True)
    torch.save(content | {"score": np.float64(0.9), "step": np.int64(3)}, tmp_path / "clap.pt")
    assert read_weights(tmp_path / "clap.pt").keys() == read_weights(published).keys()


def test_an_unknown_audio_model_names_those_that_are(published, embedder):
    with pytest.raises(ValueError, match=r"unknown 'HTSAT-bse', laion-clap has .*HTSAT-base"):
        embedder(published, audio_model="HTSAT-bse").embed_text(["bass"])


def test_a_tokenizer_of_another_vocabulary_is_told(published, embedder, tokenizer_folder, tmp_path):
    """transformers loads an incomplete folder without an error, with 5 tokens."""
    (tmp_path / "vocab.json").write_text('{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"the tokenizer has 5 tokens, but .* has \d+"):
        embedder(published, tokenizer_path=str(tmp_path)).embed_text(["bass"])


def test_missing_files_are_named_with_their_key_and_source(tmp_path):
    config = ClapConfig(str(tmp_path / "clap.pt"), str(tmp_path))
    checkpoint, tokenizer = config.problems()
    assert checkpoint.startswith(f"ckpt_path: no such file {str(tmp_path / 'clap.pt')!r}")
    assert "huggingface.co/lukewys/laion_clap" in checkpoint
    assert tokenizer.startswith(f"tokenizer_path: {str(tmp_path)!r} is not a folder with")
    assert "huggingface.co/FacebookAI/roberta-base" in tokenizer


def test_a_model_is_built_without_the_files_and_asks_for_them_when_needed():
    paths = {"ckpt_path": "no/clap.pt", "tokenizer_path": "no/roberta"}
    entry = {"id": "prompt", "type": "mge_clap", "config": paths}
    conditioner = create_conditioner({"configs": [entry], "cond_dim": 512})
    with pytest.raises(ConfigError, match="conditioner mge_clap: ckpt_path: no such file 'no/clap"):
        conditioner([{"prompt": "bass"}], "cpu")


def test_the_width_is_claps():
    paths = {"ckpt_path": "a", "tokenizer_path": "b"}
    entry = {"id": "prompt", "type": "mge_clap", "config": paths}
    with pytest.raises(ConfigError, match="CLAP's embeddings are 512 wide, cond_dim is 64"):
        create_conditioner({"configs": [entry], "cond_dim": 64})
