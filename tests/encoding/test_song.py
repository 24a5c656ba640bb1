"""One song: what is encoded of it, and that it is what training would encode."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from mge_plugin.data.audio import rms_db
from mge_plugin.data.latents.encode import read_corpora
from mge_plugin.data.latents.store import Store, sums_of
from mge_plugin.data.triplets import Format, Window, make_triplet
from mge_plugin.models.autoencoder import encode_posterior, encode_tracks, open_autoencoder
from mge_plugin.tracks import Track
from tests.encoding.tiny import RATE, RATIO, vae_config


def songs_of(corpus):
    return read_corpora(corpus.config)[0].songs


def test_of_two_stems_each_is_the_others_submixture(three):
    duo, trio, _ = songs_of(three)
    assert sums_of(duo) == ((0, 1), (0,), (1,))
    assert set(sums_of(trio)) == {(0, 1, 2), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}


def test_other_is_part_of_sums_but_no_source(corpus):
    corpus.song("a", 3000, ("bass", "drums", "other"))
    (song,) = songs_of(corpus)
    stems = [stem.label for stem in song.stems]
    other = stems.index("other")
    assert len(sums_of(song)) == 5
    assert (other,) not in sums_of(song)


def test_partial_sums_add_the_stems_one_by_one(corpus):
    corpus.song("a", 3000, ("bass", "drums", "guitar", "organ", "piano"))
    (song,) = songs_of(corpus)
    plain, sums = sums_of(song), sums_of(song, partial_sums=1)
    added = sums[len(plain) :]
    assert sums[: len(plain)] == plain
    assert [len(stems) for stems in added] == [2, 3]  # 1, 4 and 5 stems are among the plain ones
    assert set(added[0]) < set(added[1])
    assert sums_of(song, partial_sums=1) == sums


@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_latents_are_those_that_training_encodes(three, run, ckpt, rate):
    """All of a song as one window: the same mean and deviation for all three tracks."""
    three.song("d", 5 * RATE * rate // RATE, rate=rate)
    store, _ = run(three)
    song = next(song for song in songs_of(three) if song.id == "d")
    path = store.song_path("songs", "train", "d")
    header, tensors = store.songs()[path], load_file(path)
    form = Format(RATE, header.frames * RATIO, 1)
    pretransform = open_autoencoder(vae_config(), ckpt)
    for i in range(len(song.stems)):
        triplet = make_triplet(Window(song, (i,), 0), form)
        audio = torch.from_numpy(triplet.audio)[None] / triplet.gain
        mean, deviation = encode_posterior(pretransform, audio)
        assert_close(mean, encode_tracks(pretransform, audio))
        others = tuple(j for j in (0, 1, 2) if j != i)
        sums = {Track.MIXTURE: (0, 1, 2), Track.SOURCE: (i,), Track.SUBMIXTURE: others}
        for track, stems in sums.items():
            stored = tensors["latents"][header.row(stems)]
            assert_close(stored[:, 0].T, mean[0, track], atol=1e-4, rtol=0)
            assert_close(stored[:, 1].T, deviation[0, track], atol=1e-4, rtol=0)
        level = 10 * np.log10(tensors["power"][i].numpy().mean())
        assert level == pytest.approx(rms_db(triplet.audio[Track.SOURCE]), abs=0.01)


def test_chunks_threads_and_batches_change_nothing(three, run):
    store, _ = run(three)
    for settings in ({"chunk": 0.0}, {"chunk": 0.11}, {"batch_size": 1, "threads": 3}):
        other, _ = run(three, out=str(settings), **settings)
        for path in store.songs():
            found = load_file(other.root / path.relative_to(store.root))
            for name, expected in load_file(path).items():
                assert_close(found[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_latents_are_kept_in_half_precision_if_asked(three, run, dtype):
    exact, _ = run(three)
    half, _ = run(three, out="half", dtype=dtype)
    for path in exact.songs():
        found = load_file(half.root / path.relative_to(exact.root))
        assert found["latents"].dtype == getattr(torch, dtype)
        assert found["power"].dtype == torch.float32
        expected = load_file(path)["latents"]
        assert_close(found["latents"].float(), expected, atol=0.02, rtol=0.01)


def test_the_mean_alone_takes_half_the_space(three, run):
    store, _ = run(three, posterior="mean")
    full, _ = run(three, out="full")
    for path in store.songs():
        mean, both = (load_file(s.root / path.relative_to(store.root)) for s in (store, full))
        assert torch.equal(mean["latents"][:, :, 0], both["latents"][:, :, 0])
        assert mean["latents"].shape[2] == 1 and both["latents"].shape[2] == 2


def test_latents_without_deviation_are_kept_as_means(three, run, vae_ckpt):
    config = vae_config("tanh")
    store, _ = run(three, config=config, weights=vae_ckpt(0, "tanh"))
    assert store.info().posterior == "mean"


def test_a_mixture_alone_is_one_row_of_latents(corpus, run):
    corpus.song("a", 3000)
    corpus.configure(mixture_only=True)
    store, report = run(corpus)
    songs = store.songs().values()
    assert report.encoded == len(songs) == 3
    assert all(song.mixture_only and song.sums == ((0,),) for song in songs)


def test_a_song_shorter_than_a_frame_has_one(corpus, run):
    corpus.song("short", RATIO - 1)
    store, _ = run(corpus)
    (song,) = store.songs().values()
    assert song.frames == 1
    assert isinstance(store, Store)
