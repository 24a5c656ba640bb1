"""Audio embeddings on a grid of seconds, with a stand-in for CLAP that hears loudness."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.dataset import LatentsConfig, LatentsEntry, cut
from mge_plugin.data.latents.encode import _create_grid, _embedder_fingerprint
from mge_plugin.data.triplets import Window
from mge_plugin.models.checkpoints import CheckpointError
from mge_plugin.models.conditioning import _CONDITIONERS
from tests.encoding.tiny import RATE, RATIO, model_config

WIDTH = 16


class Ear:
    """Texts are nothing to it; of audio it hears the mean square and the first sample."""

    def embed_text(self, texts):
        return torch.zeros(len(texts), WIDTH)

    def embed_audio(self, examples):
        return torch.stack([self.embed(audio) for audio, rate in examples if rate == RATE])

    def embed(self, audio):
        heard = torch.stack([audio.square().mean(), audio[0, 0]])
        return torch.cat([heard, torch.zeros(WIDTH - 2)])


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(_CONDITIONERS, "mge_ear", lambda config, width, where: Ear())
    config = model_config()
    config["model"]["conditioning"]["configs"][0]["type"] = "mge_ear"
    return config


@pytest.fixture
def encoded(three, run, config):
    """A store of embeddings every 0.1 s, of windows of 1024 samples (0.256 s)."""
    return run(three, config=config, clap_every=0.1)[0]


def test_every_grid_point_is_the_embedding_of_its_window(three, encoded):
    path = encoded.song_path("songs", "train", "c")  # 6400 samples: 0 to 5376, every 400
    song, clap = encoded.songs()[path], load_file(path)["clap"]
    assert clap.shape == (len(song.sums), 14, WIDTH)
    stems = [
        torch.from_numpy(sf.read(three.root / "train" / "c" / stem.path, dtype="float32")[0])
        for stem in song.stems
    ]
    for row, numbers in enumerate(song.sums):
        audio = sum(stems[i] for i in numbers)
        for place in range(14):
            window = audio[None, 400 * place : 400 * place + 1024]
            assert_close(clap[row, place], Ear().embed(window), atol=1e-6, rtol=1e-5)
    assert song.store.clap.seconds == 1024 / RATE and song.store.clap.every == 0.1


def item_of(window, tensors):
    config = LatentsConfig("mge_latents", (LatentsEntry("songs", "here"),))
    rng = np.random.default_rng(0)
    return cut(window, tensors.__getitem__, config, 1024 // RATIO, {0, 1, 2}, rng)[1]


@pytest.mark.parametrize("start, place", [(0, 0), (6, 0), (7, 1), (100, 8), (168, 13), (190, 13)])
def test_an_item_has_the_embeddings_nearest_to_its_window(encoded, start, place):
    path = encoded.song_path("songs", "train", "c")
    song, tensors = encoded.songs()[path], load_file(path)
    item = item_of(Window(song, (1,), start), tensors)
    for label, stems in {"mixture": (0, 1, 2), "submixture": (0, 2), "source": (1,)}.items():
        expected = tensors["clap"][song.row(stems), place]
        assert torch.equal(item["audio_embedding"][label], expected)


def test_a_silent_source_is_embedded_as_silence(encoded):
    path = encoded.song_path("songs", "train", "c")
    song, tensors = encoded.songs()[path], load_file(path)
    item = item_of(Window(song, (), 0, "violin"), tensors)
    assert torch.equal(item["audio_embedding"]["source"], torch.zeros(WIDTH))
    assert item["prompt"]["source"] == "The sound of the violin"


def test_a_model_that_does_not_hear_or_is_told_not_to_has_none(three, run, config):
    for out, settings in {"deaf": {"config": model_config()}, "told": {"clap": False}}.items():
        store, _ = run(three, out=out, **{"config": config} | settings)
        assert store.info().clap is None
        assert all("clap" not in load_file(path) for path in store.songs())


def test_two_conditioners_that_embed_audio_are_refused(config, tmp_path):
    entries = config["model"]["conditioning"]["configs"]
    entries.append(entries[0] | {"id": "style"})
    with pytest.raises(
        ConfigError, match=r"one conditioner that embeds audio, found \['prompt', 'style'"
    ):
        _create_grid(config, tmp_path / "no.ckpt", 2.0)


def test_embeddings_of_other_models_are_not_mixed(three, run, config, encoded):
    with pytest.raises(ConfigError, match="clap is GridInfo"):
        run(three, config=config, clap_every=0.2)


def test_the_fingerprint_goes_by_what_files_hold(tmp_path):
    def told(name, content, **options):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        entry = {"type": "mge_clap", "config": {"ckpt_path": str(path)} | options}
        return _embedder_fingerprint(entry, torch.nn.Module())

    first = told("a.pt", 1)
    assert told("b.pt", 1) == first == told("c.pt", 1, cache_dir="anywhere")
    assert told("b.pt", 2) != first != told("c.pt", 1, audio_model="HTSAT-tiny")


def text_audio_config():
    config = model_config()
    entry = config["model"]["conditioning"]["configs"][0]
    entry |= {"type": "mge_text_audio", "config": {"channels": 8, "bands": 16, "words": 32}}
    return config


def test_an_embedders_weights_are_those_of_the_models_checkpoint(
    three, run, new_model, ckpt, tmp_path
):
    """Of a whole model, plain or in a training checkpoint; random ones are refused."""
    config = text_audio_config()
    model = new_model(config, seed=1)
    state = model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    wrapped = {f"diffusion.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "training.ckpt")
    embedder = model.conditioner.conditioners["prompt"].embedder
    fingerprints = set()
    for name in ("model", "training"):
        store, _ = run(three, name, config, tmp_path / f"{name}.ckpt", clap_every=0.1)
        path = store.song_path("songs", "train", "c")
        song, clap = store.songs()[path], load_file(path)["clap"]
        audio = sf.read(three.root / "train" / "c" / song.stems[0].path, dtype="float32")[0][:1024]
        expected = embedder.embed_audio([(torch.from_numpy(audio), RATE)])[0]
        assert_close(clap[song.row((0,)), 0], expected, atol=1e-4, rtol=0)
        fingerprints.add(store.info().clap.fingerprint)
    assert len(fingerprints) == 1
    torch.save({"state_dict": new_model(config, seed=2).state_dict()}, tmp_path / "other.ckpt")
    other = _create_grid(config, tmp_path / "other.ckpt", 0.1)
    assert other.fingerprint not in fingerprints
    with pytest.raises(CheckpointError, match=r"'prompt' .*random"):
        run(three, "random", config, ckpt)
