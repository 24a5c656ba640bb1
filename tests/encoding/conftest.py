"""A tiny autoencoder with random weights, and songs of a second or two."""

import json
import warnings

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import registry
from tests.encoding.running import encode
from tests.encoding.tiny import RATE, vae_config


@pytest.fixture(autouse=True)
def registered():
    registry.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@pytest.fixture(scope="session")
def new_model():
    """A function that makes a model of a config, its weights drawn by a seed."""
    registry.install()

    def make(config, seed=0):
        from stable_audio_tools.models import create_model_from_config

        torch.manual_seed(seed)
        return create_model_from_config(config)

    return make


@pytest.fixture(scope="session")
def vae_ckpt(new_model, tmp_path_factory):
    """A function that writes an autoencoder's weights, drawn by a seed."""

    def write(seed=0, bottleneck="vae"):
        path = tmp_path_factory.mktemp("vae") / "vae.ckpt"
        torch.save({"state_dict": new_model(vae_config(bottleneck), seed).state_dict()}, path)
        return path

    return write


@pytest.fixture(scope="session")
def ckpt(vae_ckpt):
    return vae_ckpt()


class Corpus:
    """Songs in folders, and a dataset config of them."""

    def __init__(self, root):
        self.root = root
        self.config = root.with_suffix(".json")
        self.configure()

    def configure(self, **entry):
        entry = {"id": "songs", "type": "folder", "path": str(self.root)} | entry
        config = {"dataset_type": "mge_triplets", "datasets": [entry], "index_cache": None}
        self.config.write_text(json.dumps(config))

    def song(self, name, samples, labels=("bass", "drums", "piano"), rate=RATE):
        folder = self.root / "train" / name
        folder.mkdir(parents=True)
        for number, label in enumerate(labels):
            seed = [number, samples]
            audio = 0.1 * np.random.default_rng(seed).standard_normal(samples)
            sf.write(folder / f"{label}.wav", audio.astype(np.float32), rate, "FLOAT")
        return folder


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "songs")


@pytest.fixture
def three(corpus):
    """Three songs, of two, three and three stems."""
    corpus.song("a duo", 5000, ("bass", "drums"))
    corpus.song("b", 4097)
    corpus.song("c", 6400)
    return corpus


@pytest.fixture
def run(tmp_path, ckpt):
    """A function that encodes a corpus as one rank does."""

    def run_encode(corpus, out="latents", config=None, weights=None, ranks=None, **settings):
        return encode(corpus.config, tmp_path / out, weights or ckpt, config, ranks, **settings)

    return run_encode
