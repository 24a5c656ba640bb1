"""WebDataset shards: the same songs, each windows' worth, and a drawn but repeatable order."""

import tarfile

import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.shards import write_shards
from tests.data.latents.handmade import CHANNELS, FRAMES, make_info, make_song, write


@pytest.fixture
def shards(store, config, monkeypatch):
    """Six songs in shards of one song each, and a config that reads them."""
    monkeypatch.setattr("mge_plugin.data.latents.shards.MEGABYTE", 1)
    for number in range(3):
        write(store, *make_song(f"more {number}", 24))
    written = write_shards(store, 1)
    pattern = str(store.root / "shards" / "train-{000000..%06d}.tar")
    config["datasets"] = [{"id": "songs", "shards": pattern % (len(written) - 1)}]
    return written


def described(loader):
    return [
        (item["path"], item["seconds_start"], item["source"], reals.sum().item())
        for reals, metadata in loader
        for item in metadata
    ]


def test_every_song_is_in_the_shards_once_and_whole(store, shards):
    members = []
    for path in shards:
        with tarfile.open(path) as tar:
            members += [(m.name, tar.extractfile(m).read()) for m in tar]
    content = dict(members)
    assert len(content) == len(members) == 2 * 6
    for path, song in store.songs().items():
        assert content[f"corpus/{path.stem}.safetensors"] == path.read_bytes()
        assert content[f"corpus/{path.stem}.json"].decode() == song.to_json()


def test_the_same_songs_give_the_same_shards_and_old_ones_are_removed(store, shards):
    before = {path: path.read_bytes() for path in shards}
    old, half = store.root / "shards" / "train-000099.tar", store.root / "shards" / ".x.shard.tmp"
    old.write_bytes(b"old")
    half.write_bytes(b"half")
    assert {path: path.read_bytes() for path in write_shards(store, 1)} == before
    assert set((store.root / "shards").iterdir()) == set(before)


def test_a_shard_is_begun_when_the_one_before_is_full(store, shards, monkeypatch):
    assert len(shards) == 6
    sizes = [path.stat().st_size for path in store.songs()]
    monkeypatch.setattr("mge_plugin.data.latents.shards.MEGABYTE", sizes[0] + sizes[1])
    written = write_shards(store, 1)
    with tarfile.open(written[0]) as tar:
        assert len(tar.getnames()) == 2 * 2
    monkeypatch.setattr("mge_plugin.data.latents.shards.MEGABYTE", sum(sizes) + 1)
    assert len(write_shards(store, 1)) == 1


def test_items_from_shards_are_as_those_from_the_folder(shards, loader):
    for reals, metadata in loader(epoch_items=30, shuffle_buffer=10):
        assert reals.shape == (2, 3 * CHANNELS, FRAMES)
        for real, item in zip(reals, metadata, strict=True):
            kept = int(item["padding_mask"][0].sum())
            start = round(item["seconds_start"] * 100)
            assert real[1, :kept].tolist() == list(range(start, start + kept))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_decided_by_seed_epoch_and_workers(shards, loader, workers):
    options = {"epoch_items": 20, "shuffle_buffer": 10, "workers": workers}
    first = loader(**options)
    epochs = [described(first), described(first)]
    assert [len(epoch) for epoch in epochs] == [20, 20] and len(first) == 10
    assert epochs[0] != epochs[1]
    second = loader(**options)
    assert [described(second), described(second)] == epochs
    assert described(loader(**options | {"seed": 1})) != epochs[0]


def test_ranks_see_other_items_and_share_an_epoch(shards, loader, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        opened = loader(epoch_items=20, shuffle_buffer=10)
        seen.append(described(opened))
        assert len(opened) == 5
    assert [len(items) for items in seen] == [10, 10]
    assert seen[0] != seen[1]


def test_a_song_of_another_autoencoder_ends_training(store, shards, loader):
    write(store, *make_song("one", info=make_info(autoencoder="other")))
    write_shards(store, 1)
    with pytest.raises(ConfigError, match=r"autoencoder is '(vae|other)'"):
        described(loader(epoch_items=100, shuffle_buffer=2))


def test_latents_that_do_not_fit_the_model_end_training(shards, loader):
    with pytest.raises(ConfigError, match=r"train-00000\d.tar: .*sample_rate: the model has 2000"):
        described(loader(epoch_items=4, rate=2000))


def test_a_song_whose_tensors_are_not_those_of_its_header_is_named(store, shards, loader):
    song, tensors = make_song("one")
    write(store, song, tensors | {"power": torch.zeros(1, 40)})
    write_shards(store, 1)
    with pytest.raises(ConfigError, match=r"corpus/one: power: expected shape \(3, 40\), found"):
        described(loader(epoch_items=100, shuffle_buffer=2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epoch_items": None}, "epoch_items: needed with shards"),
        ({"epoch_items": 1}, "epoch_items 1 are fewer than one batch of 2"),
        ({"epoch_items": 9, "shuffle_buffer": 0}, "shuffle_buffer: expected 1 or more"),
        ({"datasets": [{"id": "a", "shards": "/no/{0..3}.tar"}]}, "4 of 4 shards are not there"),
        ({"datasets": [{"id": "a", "shards": "x.tar", "weight": 1}]}, "weight: not for shards"),
        (
            {"datasets": [{"id": "a", "shards": "x.tar"}, {"id": "b", "path": "y"}]},
            "folders and shards cannot be mixed",
        ),
    ],
)
def test_what_is_wrong_with_a_config_of_shards_is_said(shards, loader, change, message):
    with pytest.raises(ConfigError, match=message):
        loader(**{"epoch_items": 9} | change)
