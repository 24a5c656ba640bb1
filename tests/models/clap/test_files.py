"""What is wrong with CLAP's files is told: without it, failures here make no noise."""

import sys

import numpy as np
import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.models.checkpoints import CheckpointError, read_checkpoint
from mge_plugin.models.clap import ClapConfig, _load_clap
from mge_plugin.models.conditioning import create_conditioner


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
        (parallel, r"does not distinguish prompts \(cosine 1.0000"),
    ],
)
def test_weights_that_do_not_fit_are_told(save_clap, embedder, change, wrong):
    with pytest.raises(ValueError, match=wrong):
        embedder(save_clap(change=change)).embed_text(["bass"])


def test_a_file_that_is_no_checkpoint_is_told(tmp_path, published):
    path = tmp_path / "clap.pt"
    path.write_bytes(published.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=f"{path}: not a readable checkpoint"):
        _load_clap(str(path), "HTSAT-base")
    path.write_text("<!DOCTYPE html><html>")
    with pytest.raises(CheckpointError, match="a web page, saved in place of the file"):
        _load_clap(str(path), "HTSAT-base")
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match="found keys such as conv"):
        _load_clap(str(path), "HTSAT-base")


def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path, published):
    content = torch.load(published, weights_only=True)
    torch.save(content | {"score": np.float64(0.9), "step": np.int64(3)}, tmp_path / "clap.pt")
    assert read_checkpoint(tmp_path / "clap.pt").keys() == read_checkpoint(published).keys()


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


def test_a_vocabulary_without_merges_is_told(published, embedder, tokenizer_folder, tmp_path):
    """transformers loads it with a whole vocabulary, of which only the letters are used."""
    vocabulary = (tokenizer_folder / "vocab.json").read_text()
    (tmp_path / "vocab.json").write_text(vocabulary)
    ours = embedder(published, tokenizer_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"with tokenizer.json or vocab.json with merges.txt"):
        ours.embed_text(["bass"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"cuts words into letters; is merges.txt incomplete"):
        ours.embed_text(["bass"])
    (tmp_path / "vocab.json").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=f"{tmp_path}: not a readable tokenizer"):
        ours.embed_text(["bass"])


def test_prompts_that_become_the_same_tokens_are_told(published, embedder, monkeypatch):
    from mge_plugin.models.clap import _ClapTokenizer

    same = {name: torch.ones(4, 77, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    monkeypatch.setattr(_ClapTokenizer, "__call__", lambda *_: same)
    with pytest.raises(ValueError, match="different prompts become the same tokens"):
        embedder(published).embed_text(["bass"])


def test_laion_clap_is_asked_for_in_one_sentence(published, embedder, monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    with pytest.raises(ModuleNotFoundError, match="mge_clap needs laion-clap: pip install laion"):
        embedder(published).embed_text(["bass"])
