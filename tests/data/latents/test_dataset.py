"""Items of latents: what is cut, from where, and the same whatever reads them."""

import hashlib

import numpy as np
import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.latents import dataset as windows
from mge_plugin.data.latents.dataset import LatentsConfig, LatentsEntry, cut_item
from mge_plugin.data.triplets import SourceConfig
from tests.data.latents.handmade import (
    CHANNELS,
    FRAMES,
    LABELS,
    RATE,
    RATIO,
    make_info,
    make_song,
    write,
)


def items_of(loader):
    return [
        (real.unflatten(0, (3, CHANNELS)), item)
        for reals, metadata in loader
        for real, item in zip(reals, metadata, strict=True)
    ]


def digests(loader):
    return [hashlib.sha256(real.numpy()).hexdigest() for real, _ in items_of(loader)]


def item_of(song, tensors, seed=0, labels=(), **options):
    config = LatentsConfig("mge_latents", (LatentsEntry("songs", "here"),), **options)
    rng = np.random.default_rng(seed)
    reals, item = cut_item(song, tensors.__getitem__, config, FRAMES, labels, rng)
    return reals.unflatten(0, (3, CHANNELS)), item


def test_an_item_is_the_right_rows_of_the_right_frames(loader):
    for real, item in items_of(loader(epoch_items=40)):
        song, _ = make_song(item["path"].split("/")[1])
        source = LABELS.index(item["labels"]["source"][0])
        others = tuple(i for i in song.every if i != source)
        rows = [song.row(stems) for stems in (song.every, others, (source,))]
        start = round(item["seconds_start"] * RATE / RATIO)  # shifted by the crop
        kept = int(item["padding_mask"][0].sum())
        assert real.shape == (3, CHANNELS, FRAMES) and real.dtype == torch.float32
        for track, row in enumerate(rows):
            assert (real[track, 0, :kept] == row).all()
            assert real[track, 1, :kept].tolist() == list(range(start, start + kept))
            assert (real[track, :, kept:] == -1).all()  # silence after the end
        assert item["source"] == f"stems/{LABELS[source]}.wav"
        assert item["labels"]["mixture"] == list(LABELS)
        assert item["prompt"]["source"] == f"The sound of the {LABELS[source]}"
        assert item["loss_mask"] == [1, 1, 1] and item["mixture_only"] is False


def test_a_song_shorter_than_a_window_is_padded_with_silence(loader):
    short = [item for _, item in items_of(loader(epoch_items=40)) if "short" in item["path"]]
    assert short
    for item in short:
        assert item["padding_mask"][0].tolist() == [True] * 5 + [False] * 3
        assert item["seconds_start"] == 0 and item["seconds_total"] == 0.05


def test_a_share_of_the_mixtures_are_partial_sums():
    sums = ((0, 1, 2), (0,), (1, 2), (1,), (0, 2), (2,), (0, 1))
    song, tensors = make_song(sums=sums)
    found = set()
    for seed in range(40):
        latents, item = item_of(song, tensors, seed, p_partial=1.0)
        labels = item["labels"]
        assert sorted(labels["submixture"] + labels["source"]) == labels["mixture"]
        rows = {track: int(latents[track, 0, 0]) for track in range(3)}
        stems = [{song.stems[i].label for i in sums[rows[track]]} for track in range(3)]
        assert [sorted(names) for names in stems] == list(labels.values())
        found.add(len(labels["mixture"]))
    assert found == {2, 3}


def test_an_absent_source_of_a_partial_sum_may_be_a_stem_of_the_song():
    song, tensors = make_song()
    form = {"p_partial": 1.0, "labels": LABELS, "source": SourceConfig(p_absent=1.0)}
    items = [item_of(song, tensors, seed, **form)[1] for seed in range(40)]
    absent = [item for item in items if item["absent"]]
    assert absent
    for item in absent:
        assert item["prompt"]["source"].removeprefix("The sound of the ") in LABELS
        assert item["labels"]["mixture"] == item["labels"]["submixture"]


def test_a_window_is_cut_inside_of_a_trainers_autocast():
    """A worker that is forked there inherits it, and autocast knows no float16 on the CPU."""
    stored = torch.arange(24, dtype=torch.float16).reshape(1, 8, 1, 3)
    silence = torch.full((1, 3), 7.0, dtype=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        row = windows._cut_row(stored, silence, 0, start=6, kept=2, frames=4)
    assert row.dtype == torch.float32
    assert row[:2].flatten().tolist() == [18, 19, 20, 21, 22, 23]
    assert (row[2:] == 7).all()


def test_songs_come_up_by_their_windows(loader):
    paths = [item["path"] for _, item in items_of(loader(drop_last=False))]
    counts = {path: paths.count(path) for path in paths}
    assert counts == {"corpus/one": 5, "corpus/two": 10, "corpus/short": 1}


def test_seed_and_item_alone_decide(loader):
    alone = digests(loader(seed=3))
    assert len(set(alone)) > 10
    assert digests(loader(seed=3, workers=2)) == alone
    assert digests(loader(seed=4)) != alone
    again = loader(seed=3)
    assert digests(again) == alone != digests(again)
    again.seek(6, batches=3)
    assert digests(again) == alone[6:]


def test_the_source_sounds_where_it_does_at_all():
    song, tensors = make_song(frames=40, labels=("bass", "drums"))
    tensors["power"][0, 12:] = 0.0
    starts = []
    for seed in range(100):
        _, item = item_of(song, tensors, seed)
        if "bass" in item["source"]:
            starts.append(round(item["seconds_start"] * RATE / RATIO))
            expected = ["bass"] if starts[-1] < 12 else []
            assert item["labels"]["source"] == expected
    assert len(starts) > 30
    assert np.mean(np.array(starts) < 12) > 0.9  # by chance alone: 12 of 33 starts


@pytest.mark.parametrize("level, sounds", [(-59.9, True), (-60.1, False)])
def test_silence_is_a_windows_rms_below_the_threshold(level, sounds):
    song, tensors = make_song(frames=FRAMES, labels=("bass", "drums"))
    tensors["power"][:] = 0.0
    tensors["power"][:, 3] = FRAMES * 10 ** (level / 10)  # one frame holds it all
    _, item = item_of(song, tensors)
    assert bool(item["labels"]["mixture"]) is sounds
    _, item = item_of(song, tensors, silence_db=-70.0)
    assert item["labels"]["mixture"] == ["bass", "drums"]


def test_stems_that_may_not_be_asked_sound_but_are_no_source():
    song, tensors = make_song()
    stems = list(song.stems)
    stems[1] = type(stems[1])("other", "o.wav", queryable=False)
    song = type(song)(**vars(song) | {"stems": tuple(stems)})
    items = [item_of(song, tensors, seed)[1] for seed in range(30)]
    assert {item["source"] for item in items} == {"stems/bass.wav", "stems/piano.wav"}
    assert all("other" in item["labels"]["submixture"] for item in items)


def test_labels_may_be_asked_equally_often():
    song, tensors = make_song(labels=("bass", "piano", "piano", "piano"))
    for choose, share in {"stems": 0.25, "labels": 0.5}.items():
        config = SourceConfig(choose=choose)
        items = [item_of(song, tensors, seed, source=config)[1] for seed in range(400)]
        asked = [item["labels"]["source"] == ["bass"] for item in items]
        assert np.mean(asked) == pytest.approx(share, abs=0.07)


def test_an_absent_source_is_silence_asked_by_a_label_that_does_not_sound(loader):
    write_violin = make_song("violin", 40, ("violin", "bass"))
    source = {"p_absent": 0.5}
    song, tensors = write_violin
    form = {
        "labels": ("bass", "drums", "violin"),
        "source": SourceConfig(**source),
    }
    absent = 0
    for seed in range(200):
        real, item = item_of(song, tensors, seed, **form)
        assert item["absent"] is (item["source"] is None)
        if item["absent"]:
            absent += 1
            assert item["prompt"]["source"] == "The sound of the drums"
            assert item["labels"]["source"] == []
            assert (real[2] == -1).all() and torch.equal(real[0], real[1])
            assert item["loss_mask"] == [1, 1, 1]
    assert 70 < absent < 130


def test_where_all_labels_sound_a_source_is_asked_as_ever():
    song, tensors = make_song("violin", 40, ("violin", "bass"))
    form = {"labels": ("bass", "violin"), "source": SourceConfig(p_absent=1.0)}
    for seed in range(20):
        _, item = item_of(song, tensors, seed, **form)
        assert not item["absent"] and item["source"] is not None
        assert item["prompt"]["source"] == f"The sound of the {item['labels']['source'][0]}"


def test_a_mixture_alone_trains_mixture_and_submixture():
    song, tensors = make_song(labels=("mixture",), mixture_only=True)
    real, item = item_of(song, tensors)
    assert torch.equal(real[0], real[1]) and (real[2] == -1).all()
    assert item["loss_mask"] == [1, 1, 0] and item["mixture_only"] is True
    assert item["prompt"] == {} and item["source"] is None


def test_the_posterior_is_drawn_anew_by_item_or_its_mean_is_taken():
    song, tensors = make_song(frames=400)
    tensors["latents"][:, :, 1] = 2.0
    mean, _ = item_of(song, tensors, posterior="mean")
    draws = torch.stack([item_of(song, tensors, seed)[0][:, 2] for seed in range(200)])
    assert draws.std().item() == pytest.approx(2.0, abs=0.1)
    assert abs(draws.mean().item()) < 0.1
    assert torch.equal(item_of(song, tensors, 5)[0], item_of(song, tensors, 5)[0])
    assert (mean[:, 2] == 0).all()


def test_a_file_that_breaks_is_told_once_and_another_song_stands_in(store, loader, caplog):
    opened = loader(epoch_items=40)
    path = store.song_path("corpus", "train", "two")
    path.write_bytes(path.read_bytes()[:500])
    items = items_of(opened)
    assert len(items) == 40 and not any("two" in item["path"] for _, item in items)
    assert caplog.text.count("another song replaces it") == 1


def test_when_nothing_can_be_read_training_ends(store, loader):
    opened = loader()
    for path in store.songs():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="20 songs in a row cannot be read"):
        next(iter(opened))


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"rate": 2000},
            "sample_rate: the model has 2000, the latents were made of audio with 1000",
        ),
        ({"channels": 2}, "audio_channels: the model has 2, the latents .* with 1"),
        ({"size": 85}, "sample_size 85 is not a whole number of latent frames of 10 samples"),
        ({"batch_size": 17}, "16 items per epoch are fewer than one batch of 17"),
        ({"datasets": []}, "datasets: expected one entry or more"),
        ({"datasets": [{"id": "a"}]}, "path and shards: expected one of them"),
        ({"datasets": [{"id": "a", "path": "/nowhere"}]}, "'a': no such folder '/nowhere'"),
        ({"source": {"max_stems": 2}}, "latents are of single stems"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"epoch_items": 0}, "epoch_items: expected 1 or more"),
        ({"posterior": "sample"}, "posterior: unknown value 'sample'"),
        ({"silence": -60}, "unknown key 'silence', did you mean 'silence_db'"),
    ],
)
def test_what_does_not_fit_is_said(loader, options, message):
    with pytest.raises(ConfigError, match=message):
        loader(**options)


def test_a_split_that_is_not_there_is_said_with_those_that_are(config, loader):
    config["datasets"][0]["split"] = "test"
    with pytest.raises(
        ConfigError, match=r"no song of split 'test'.*3 songs of splits \['train'\]"
    ):
        loader()


def test_songs_are_chosen_by_corpus_and_left_out_by_id(config, loader):
    config["datasets"][0] |= {"exclude": ["one"], "corpora": ["corpus"]}
    assert {item["path"] for _, item in items_of(loader())} <= {"corpus/two", "corpus/short"}
    config["datasets"][0]["corpora"] = ["other"]
    with pytest.raises(ConfigError, match="has no song"):
        loader()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"autoencoder": "other"},
            "'songs' and 'others' cannot be mixed: autoencoder is 'vae' and",
        ),
        ({"clap": True}, "audio embeddings of different models"),
    ],
)
def test_folders_of_two_autoencoders_are_not_mixed(
    store, config, loader, tmp_path, changes, message
):
    other = type(store)(tmp_path / "others")
    clap = changes.get("clap", False)
    write(other, *make_song(info=make_info(**changes), clap=clap))
    config["datasets"].append({"id": "others", "path": str(other.root)})
    with pytest.raises(ConfigError, match=message):
        loader()


def test_weights_share_out_the_items(config, loader, store, tmp_path):
    other = type(store)(tmp_path / "others")
    write(other, *make_song("three", 40))
    config["datasets"][0]["weight"] = 1
    config["datasets"].append({"id": "others", "path": str(other.root), "weight": 3})
    paths = [item["path"] for _, item in items_of(loader())]
    assert np.mean([path == "corpus/three" for path in paths]) == pytest.approx(0.75, abs=0.06)
