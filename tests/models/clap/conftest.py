"""A small random CLAP in the real files' layout, and laion-clap's own class on its weights."""

import contextlib
import io
import socket
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from mge_plugin.models import clap as cache
from mge_plugin.models import clap as model
from mge_plugin.models.clap import ClapConfig, ClapEmbedder

AUDIO_MODEL = "HTSAT-tiny"
WORDS = "the sound of the bass guitar, violin and drums; a woman singing with piano and strings"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever would open a connection fails the test, even where the failure is caught."""
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise AssertionError("something was asked of the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert asked == []


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """RoBERTa's files with a vocabulary of a few hundred tokens."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator([WORDS] * 10, vocab_size=320, special_tokens=special)
    tokenizer.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def reference(tokenizer_folder):
    """laion-clap's `CLAP_Module` with random weights: two layers of text, far from parallel."""
    tokenizer = transformers.RobertaTokenizer.from_pretrained(str(tokenizer_folder))
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=82,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    patch = pytest.MonkeyPatch()
    for cls in (transformers.BertTokenizer, transformers.BartTokenizer):
        patch.setattr(cls, "from_pretrained", lambda *_: None, raising=False)
    patch.setattr(transformers.RobertaTokenizer, "from_pretrained", lambda *_: tokenizer)
    roberta = transformers.RobertaModel
    patch.setattr(roberta, "from_pretrained", lambda *_: roberta(config))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        import laion_clap

        module = laion_clap.CLAP_Module(device="cpu", amodel=AUDIO_MODEL)
    patch.undo()
    for name, parameter in module.model.named_parameters():
        if name.startswith("text_branch") and parameter.ndim == 2:
            parameter.data.mul_(6)
    return module


@pytest.fixture(scope="session")
def save_clap(reference, tmp_path_factory):
    """Write the weights as the published files have them; returns the path."""

    def save(prefix="module.", position_ids=True, change=None):
        weights = dict(reference.model.state_dict())
        if position_ids:
            weights["text_branch.embeddings.position_ids"] = torch.arange(82)[None]
        weights = {f"{prefix}{key}": value for key, value in weights.items()}
        if change is not None:
            change(weights)
        path = tmp_path_factory.mktemp("clap") / "music_audioset_epoch_15_esc_90.14.pt"
        torch.save({"epoch": 15, "name": "clap", "state_dict": weights}, path)
        return path

    return save


@pytest.fixture(scope="session")
def published(save_clap):
    """The usual form."""
    return save_clap()


@pytest.fixture
def embedder(tokenizer_folder):
    """A ClapEmbedder on a checkpoint; every test loads anew."""

    def make(ckpt_path, **options):
        forget()
        options = {"tokenizer_path": str(tokenizer_folder), "audio_model": AUDIO_MODEL} | options
        return ClapEmbedder(ClapConfig(str(ckpt_path), **options))

    yield make
    forget()


def forget():
    """As in a new process."""
    model._loaded.cache_clear()
    cache._shared_texts.cache_clear()


@pytest.fixture
def songs():
    """Audio at 48 kHz: shorter than 10 s, exactly, and longer."""
    generator = torch.Generator().manual_seed(0)

    def noise(seconds):
        return 0.3 * torch.randn(int(seconds * 48_000), generator=generator)

    return SimpleNamespace(short=noise(3.3), whole=noise(10), long=noise(24))
