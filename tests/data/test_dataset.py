"""The loader: the same items whatever reads them, their metadata, and epochs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import Track

RATE = 16_000
SAMPLES = 1000
SONGS = 4
PROGRAMS = {33: "bass", 0: "piano", 128: "drums"}
ROOT = Path(__file__).parents[2]
LATER_LAYERS = ("models", "training", "inference", "evaluation", "interface", "cli")
OTHER_PROCESS = """
import hashlib, json, sys
from mge_plugin.data.dataset import create_mge_dataloader
for reals, _ in create_mge_dataloader(**json.loads(sys.argv[1])):
    for item in reals:
        print(hashlib.sha256(item.numpy()).hexdigest())
print(*(name for name in sys.modules if name.startswith(("mge_plugin.", "stable_audio_tools"))))
"""


@pytest.mark.parametrize("channels", [1, 2])
def test_a_batch_is_three_tracks_stacked_on_channels_and_metadata(corpus, channels):
    batches = list(corpus.loader(channels=channels))
    assert len(batches) == SONGS
    for reals, metadata in batches:
        assert reals.shape == (4, 3 * channels, SAMPLES) and reals.dtype == torch.float32
        mixture, submixture, source = reals.unflatten(1, (3, channels)).unbind(1)
        assert torch.equal(mixture, submixture + source)
        assert source.any() and submixture.any()
        assert len(metadata) == 4


def test_metadata_say_what_sounds_and_where_it_is_from(corpus):
    for reals, metadata in corpus.loader():
        for real, item in zip(reals, metadata, strict=True):
            labels = item["labels"]
            assert labels["mixture"] == ["bass", "drums", "piano"]
            (source,) = labels["source"]
            assert sorted([source, *labels["submixture"]]) == labels["mixture"]
            assert item["prompt"] == {name: label_prompt(labels[name]) for name in labels}
            number = list(PROGRAMS.values()).index(source)
            path = Path(item["path"]) / "stems" / f"S{number:02}.flac"
            assert item["source"] == str(path)
            start = round(item["seconds_start"] * RATE)
            expected, _ = sf.read(path, SAMPLES, start, dtype="float32")
            np.testing.assert_array_equal(real[Track.SOURCE], expected)
            assert item["seconds_total"] == 4 * SAMPLES / RATE
            assert item["padding_mask"][0].shape == (SAMPLES,) and item["padding_mask"][0].all()


def test_a_silent_track_has_no_prompt(slakh, noise):
    stems = [slakh.stem(np.zeros(SAMPLES), 33), slakh.stem(noise(SAMPLES), 0)]
    slakh.song(stems=stems)
    items = [
        item for _, metadata in slakh.loader(batch_size=1, epoch_items=20) for item in metadata
    ]
    silent = [item for item in items if item["source"].endswith("S00.wav")]
    assert 0 < len(silent) < 20
    for item in silent:
        assert item["labels"]["source"] == []
        assert item["prompt"] == dict.fromkeys(("mixture", "submixture"), "The sound of the piano")


def test_songs_have_windows_in_proportion_to_their_length(corpus, slakh, noise, song_names):
    slakh.song("Track_long", [slakh.stem(noise(8 * SAMPLES + 999))] * 2)
    slakh.song("Track_short", [slakh.stem(noise(SAMPLES // 2))] * 2)
    songs = song_names(slakh.loader(batch_size=1))
    assert songs.count("Track_long") == 8
    assert songs.count("Track_short") == 1
    assert songs.count("Track00000") == 4


@pytest.mark.parametrize("epoch_items", [4, 40])
def test_an_epoch_is_as_long_as_asked_and_epochs_go_through_all_windows(
    corpus, epoch_items, song_names
):
    loader = corpus.loader(epoch_items=epoch_items, batch_size=1, shuffle=True)
    assert len(loader) == epoch_items
    songs = []
    for _ in range(4):
        songs += song_names(loader)
    assert len(songs) == 4 * epoch_items
    assert {songs.count(song) for song in songs} == {epoch_items}  # 4 songs of one length


def test_seed_and_item_alone_decide_a_triplet_in_any_number_of_workers_and_processes(
    corpus, digests
):
    alone = digests(corpus.loader(seed=3))
    assert len(set(alone)) == 16
    assert [digests(corpus.loader(seed=3, workers=n)) for n in (0, 1, 2)] == [alone] * 3
    arguments = json.dumps(corpus.arguments(seed=3))
    other = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    *hashes, modules = other.stdout.splitlines()
    assert hashes == alone
    layers = {name.split(".")[1] for name in modules.split() if name.startswith("mge_plugin.")}
    assert "data" in layers and layers.isdisjoint(LATER_LAYERS)  # imports go one way
    assert "stable_audio_tools" not in modules


def test_seeds_and_epochs_give_other_triplets(corpus, digests):
    loader = corpus.loader()
    first = digests(loader)
    second = digests(loader)
    assert len({*first, *second, *digests(corpus.loader(seed=1))}) == 3 * 16
    loader.seek(0)
    assert digests(loader) == first


def test_without_shuffling_every_epoch_is_the_same(corpus, digests, song_names):
    loader = corpus.loader(shuffle=False)
    first = digests(loader)
    assert digests(loader) == first
    assert song_names(loader) == sorted(song_names(loader))


def test_an_interrupted_epoch_goes_on_with_the_next_batch(corpus, digests):
    whole = digests(corpus.loader(workers=1))
    loader = corpus.loader(workers=1)
    loader.seek(8, batches=2)
    assert digests(loader) == whole[8:]
    assert len(digests(loader)) == len(whole)
