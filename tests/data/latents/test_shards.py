"""WebDataset shards: the same songs, each windows' worth, in streams that can begin anywhere."""

import functools
import itertools
import json
import operator
import tarfile

import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.shards import _delayed, _Delays, write_shards
from tests.data.latents.handmade import CHANNELS, FRAMES, make_info, make_song, write


@pytest.fixture
def shards(store, config, monkeypatch):
    """Six songs in shards of one song each, and a config that reads them."""
    monkeypatch.setattr("mge_plugin.data.latents.shards._MEGABYTE", 1)
    for number in range(3):
        write(store, *make_song(f"more {number}", 24))
    written = write_shards(store, 1)
    pattern = str(store.root / "shards" / "train-{000000..%06d}.tar")
    config["datasets"] = [{"id": "songs", "shards": pattern % (len(written) - 1)}]
    return written


@pytest.fixture
def on_rank(monkeypatch):
    """Pretend to be one process of several."""

    def pretend(rank, ranks):
        place = "mge_plugin.data.latents.shards.rank_and_ranks"
        monkeypatch.setattr(place, lambda: (rank, ranks))
        monkeypatch.setattr("mge_plugin.data.order.number_of_ranks", lambda: ranks)

    return pretend


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
    folder = store.root / "shards"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "train-000099.tar").write_bytes(b"old")
    write_shards(store, 1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {*shards, folder / "index.json"}


def test_a_shard_begins_when_the_one_before_is_full(store, shards, monkeypatch):
    assert len(shards) == 6
    sizes = [path.stat().st_size for path in store.songs()]
    monkeypatch.setattr("mge_plugin.data.latents.shards._MEGABYTE", sizes[0] + sizes[1])
    written = write_shards(store, 1)
    with tarfile.open(written[0]) as tar:
        assert len(tar.getnames()) == 2 * 2
    monkeypatch.setattr("mge_plugin.data.latents.shards._MEGABYTE", sum(sizes) + 1)
    assert len(write_shards(store, 1)) == 1


def test_items_from_shards_are_as_those_from_the_folder(shards, loader):
    for reals, metadata in loader(epoch_items=30, shuffle_buffer=10):
        assert reals.shape == (2, 3 * CHANNELS, FRAMES)
        for real, item in zip(reals, metadata, strict=True):
            kept = int(item["padding_mask"][0].sum())
            start = round(item["seconds_start"] * 100)
            assert real[1, :kept].tolist() == list(range(start, start + kept))


def test_every_window_of_every_song_comes_once_in_a_round(shards, loader):
    """Songs of 40, 80, 24, 24, 24 and 5 frames have 5 + 10 + 3 x 3 + 1 windows."""
    items = described(loader(epoch_items=24, shuffle_buffer=1, batch_size=1))
    counts = {path: sum(item[0] == path for item in items) for path, *_ in items}
    songs = {"one": 5, "two": 10, "short": 1, "more 0": 3, "more 1": 3, "more 2": 3}
    assert sum(counts.values()) == 24 and {f"corpus/{name}" for name in songs} >= set(counts)
    assert all(count <= 2 * songs[path.split("/")[1]] for path, count in counts.items())


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("done", [0, 1, 30, 5000])
def test_a_shuffle_buffer_can_begin_anywhere(size, done):
    delays = _Delays((3,), size)
    whole = list(itertools.islice(_delayed(itertools.count(), delays, 0), done + 50))
    assert len(set(whole)) == len(whole)
    assert max(abs(item - place) for place, item in enumerate(whole)) <= size
    first, given = delays.resume(done)
    windows = (None if number in given else number for number in itertools.count(first))
    assert list(itertools.islice(_delayed(windows, delays, first), 50)) == whole[done:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_across_epochs_and_begins_at_any_batch(shards, loader, workers):
    options = {"epoch_items": 20, "shuffle_buffer": 10, "workers": workers}
    first = loader(**options)
    epochs = [described(first) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [20] * 3 and len(first) == 10
    assert epochs[0] != epochs[1]
    whole = functools.reduce(operator.iadd, epochs, [])
    for batch in (1, 10, 13):
        resumed = loader(**options)
        resumed.seek(2 * batch, batches=batch % 10)
        assert described(resumed) == whole[2 * batch : 20 * (batch // 10 + 1)]
        assert described(resumed) == whole[20 * (batch // 10 + 1) :][:20]
    assert described(loader(**options | {"seed": 1})) != epochs[0]


def test_ranks_see_other_items_and_share_an_epoch(shards, loader, on_rank):
    seen = []
    for rank in (0, 1):
        on_rank(rank, 2)
        opened = loader(epoch_items=20, shuffle_buffer=10)
        seen.append(described(opened))
        assert len(opened) == 5
    assert [len(items) for items in seen] == [10, 10]
    assert seen[0] != seen[1]


def test_more_ranks_and_workers_than_shards_have_equal_batches(shards, loader, config, on_rank):
    config["datasets"][0]["shards"] = str(shards[0])
    for rank in (0, 1):
        on_rank(rank, 2)
        assert len(described(loader(epoch_items=20, workers=2))) == 10


def test_shards_elsewhere_are_positioned_by_their_index(store, shards, loader, config, monkeypatch):
    monkeypatch.setenv("MGE_ALLOW_PIPE", "1")
    options = {"epoch_items": 20, "shuffle_buffer": 10}
    local = described(loader(**options))
    entry = config["datasets"][0]
    entry["shards"] = f"pipe:cat {entry['shards']}"
    entry["index"] = str(store.root / "shards" / "index.json")
    opened = loader(**options)
    opened.seek(6, batches=3)
    assert described(opened) == local[6:]


def test_without_an_index_a_resumed_run_does_not_replay_the_beginning(
    shards, loader, config, monkeypatch
):
    monkeypatch.setenv("MGE_ALLOW_PIPE", "1")
    config["datasets"][0]["shards"] = f"pipe:cat {config['datasets'][0]['shards']}"
    options = {"epoch_items": 20, "shuffle_buffer": 10}
    first, resumed, again = (loader(**options) for _ in range(3))
    resumed.seek(20)
    again.seek(20)
    items = described(resumed)
    assert items == described(again)
    assert items != described(first)


@pytest.mark.parametrize("url", ["pipe:touch {}", "https://x/'; touch '{}"])
def test_a_config_runs_no_command_unless_it_is_allowed(loader, config, tmp_path, url):
    config["datasets"] = [{"id": "a", "shards": url.format(tmp_path / "ran")}]
    with pytest.raises(ConfigError, match="MGE_ALLOW_PIPE=1"):
        loader(epoch_items=4)
    assert not (tmp_path / "ran").exists()


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


def test_the_index_of_shards_has_every_header(store, shards):
    index = json.loads((store.root / "shards" / "index.json").read_text())
    assert list(index) == [path.name for path in shards]
    assert [text for texts in index.values() for text in texts] == [
        song.to_json() for song in store.songs().values()
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epoch_items": None}, "epoch_items: needed with shards"),
        ({"epoch_items": 1}, "1 items per epoch are fewer than one batch of 2"),
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
