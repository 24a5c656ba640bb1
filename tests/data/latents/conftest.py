"""Stores of latents written by hand."""

import pytest

from mge_plugin.data.dataset import create_mge_dataloader
from mge_plugin.data.latents.store import Store
from tests.data.latents.handmade import FRAMES, RATE, RATIO, make_song, write


@pytest.fixture
def store(tmp_path):
    """Three songs: of five windows, of ten, and shorter than one."""
    store = Store(tmp_path / "latents")
    for name, frames in {"one": 40, "two": 80, "short": 5}.items():
        write(store, *make_song(name, frames))
    return store


@pytest.fixture
def config(store):
    entry = {"id": "songs", "path": str(store.root)}
    return {"dataset_type": "mge_latents", "datasets": [entry]}


@pytest.fixture
def loader(config):
    """A function that opens a loader as SAT's scripts do."""

    def load(batch_size=2, workers=0, channels=1, size=FRAMES * RATIO, rate=RATE, **keys):
        return create_mge_dataloader(
            config | keys, batch_size, size, rate, channels, num_workers=workers
        )

    return load
