"""Audio embeddings on a grid of seconds, with a stand-in for CLAP that hears loudness."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.dataset import LatentForm, LatentWindow, cut
from mge_plugin.data.latents.encode import create_grid, embedder_fingerprint
from mge_plugin.models.conditioning import CONDITIONERS
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
    monkeypatch.setitem(CONDITIONERS, "mge_ear", lambda config, width, where: Ear())
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


@pytest.mark.parametrize("start, place", [(0, 0), (6, 0), (7, 1), (100, 8), (168, 13), (190, 13)])
def test_an_item_has_the_embeddings_nearest_to_its_window(encoded, start, place):
    path = encoded.song_path("songs", "train", "c")
    song, tensors = encoded.songs()[path], load_file(path)
    window = LatentWindow(song, song.every, 1, start, (0, 1, 2))
    _, item = cut(window, tensors.__getitem__, LatentForm(1024 // RATIO), np.random.default_rng(0))
    for label, stems in {"mixture": (0, 1, 2), "submixture": (0, 2), "source": (1,)}.items():
        expected = tensors["clap"][song.row(stems), place]
        assert torch.equal(item["audio_embedding"][label], expected)


def test_a_silent_source_is_embedded_as_silence(encoded):
    path = encoded.song_path("songs", "train", "c")
    song, tensors = encoded.songs()[path], load_file(path)
    window = LatentWindow(song, song.every, None, 0, (0, 1, 2), absent="violin")
    _, item = cut(window, tensors.__getitem__, LatentForm(32), np.random.default_rng(0))
    assert torch.equal(item["audio_embedding"]["source"], torch.zeros(WIDTH))
    assert item["prompt"]["source"] == "The sound of the violin"


def test_a_model_that_does_not_hear_or_is_told_not_to_has_none(three, run, config):
    for out, settings in {"deaf": {"config": model_config()}, "told": {"clap": False}}.items():
        store, _ = run(three, out=out, **{"config": config} | settings)
        assert store.info().clap is None
        assert all("clap" not in load_file(path) for path in store.songs())


def test_two_conditioners_that_hear_are_refused(config):
    entries = config["model"]["conditioning"]["configs"]
    entries.append(entries[0] | {"id": "style"})
    with pytest.raises(ConfigError, match=r"one conditioner that hears, found \['prompt', 'style'"):
        create_grid(config, 2.0)


def test_embeddings_of_other_models_are_not_mixed(three, run, config, encoded):
    with pytest.raises(ConfigError, match="clap is GridInfo"):
        run(three, config=config, clap_every=0.2)


def test_the_fingerprint_goes_by_what_files_hold(tmp_path):
    def told(name, content, **options):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return embedder_fingerprint(
            {"type": "mge_clap", "config": {"ckpt_path": str(path)} | options}
        )

    first = told("a.pt", 1)
    assert told("b.pt", 1) == first == told("c.pt", 1, cache_dir="anywhere")
    assert told("b.pt", 2) != first != told("c.pt", 1, audio_model="HTSAT-tiny")
