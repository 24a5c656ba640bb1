"""MoisesDB: tracks summed into stems, odd lengths and rates, and the paper's split."""

import json

import numpy as np
import pytest
import soundfile as sf
from numpy.testing import assert_allclose

from mge_plugin.config import ConfigError
from mge_plugin.data.triplets import Format, Window, make_triplet
from mge_plugin.tracks import Track

RATE = 16_000
TWO = [("bass", "b", 1600), ("drums", "d", 1600)]


def test_tracks_of_a_stem_are_its_parts_and_labels_are_words(index, moises_song, tmp_path):
    tracks = [*TWO, ("drums", "e", 800, 8000), ("other_plucked", "f", 1600), ("other", "g", 1600)]
    moises_song(tmp_path / "song", tracks)
    corpus = index("moisesdb", tmp_path, test_share=0.0)
    (song,) = corpus.songs
    assert [stem.label for stem in song.stems] == ["bass", "drums", "plucked strings", "other"]
    assert [len(stem.parts) for stem in song.stems] == [1, 2, 1, 1]
    assert [part.sample_rate for part in song.stems[1].parts] == [RATE, 8000]
    assert song.stems[3] not in song.sources and len(song.sources) == 3
    assert corpus.report.lines() == []


def test_parts_of_other_rates_lengths_and_channels_are_aligned_and_summed(
    index, moises_song, write, tmp_path
):
    folder = moises_song(tmp_path / "song", [("drums", "x"), ("drums", "y"), ("bass", "z", 8000)])
    seconds, rates, channels = (1.0, 1.02), (48_000, 44_100), (1, 2)
    for track, length, rate, count in zip("xy", seconds, rates, channels, strict=True):
        time = np.arange(int(length * rate)) / rate
        sine = 0.3 * np.sin(2 * np.pi * 440 * time)
        (folder / "drums").mkdir(exist_ok=True)
        sf.write(folder / "drums" / f"{track}.wav", np.stack([sine] * count, 1), rate, "FLOAT")
    (song,) = index("moisesdb", tmp_path, test_share=0.0).songs
    assert song.seconds == 1.02 and song.samples(44_100) == 44_982
    form = Format(44_100, 44_982, 1)
    source = make_triplet(Window(song, (0,), 0), form).audio[Track.SOURCE, 0]
    sine = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44_982) / 44_100)
    assert_allclose(source[500:43_500], 2 * sine[500:43_500], atol=1e-3, rtol=0)
    assert_allclose(source[44_400:], sine[44_400:], atol=1e-3, rtol=0)  # the shorter is padded


@pytest.mark.parametrize("level", ["", "moisesdb_v0.1", "moisesdb_v0.1/song"])
def test_the_path_may_be_the_song_its_folder_or_the_one_above(index, moises_song, tmp_path, level):
    moises_song(tmp_path / "moisesdb_v0.1" / "song", TWO)
    assert [s.id for s in index("moisesdb", tmp_path / level, test_share=0.0).songs] == ["song"]


def test_a_tenth_of_the_songs_drawn_by_a_seed_is_the_test(index, moises_song, tmp_path):
    for number in range(20):
        moises_song(tmp_path / f"{number:02}", TWO)

    def ids(split, **keys):
        return {song.id for song in index("moisesdb", tmp_path, split=split, **keys).songs}

    test, train = ids("test"), ids("train")
    assert len(test) == 2 and len(train) == 18 and test.isdisjoint(train)
    assert ids("test") == test
    assert any(ids("test", split_seed=seed) != test for seed in range(1, 4))
    assert ids("test", test_share=0.5) > test
    with pytest.raises(ConfigError, match="split 'validation' has no song, set its share"):
        ids("validation")
    assert len(ids("validation", validation_share=0.2)) == 4
    moises_song(tmp_path / "new", TWO)
    assert len(ids("test") & test) >= 1  # a song more leaves the draw mostly as it was


def test_names_that_climb_out_and_missing_tracks_are_left_out(index, moises_song, write, tmp_path):
    outside = write(tmp_path / "outside" / "x.wav")
    folder = moises_song(tmp_path / "db" / "song", [*TWO, ("piano", "gone")])
    listed = json.loads((folder / "data.json").read_text())
    names = [str(outside.with_suffix("")), "../../outside/x"]
    tracks = [{"id": name, "extension": "wav"} for name in names]
    listed["stems"] += [
        {"stemName": "../../outside", "tracks": [{"id": "x"}]},
        {"stemName": "bass", "tracks": tracks},
        {"stemName": "wind", "tracks": []},
        "text",
    ]
    (folder / "data.json").write_text(json.dumps(listed))
    corpus = index("moisesdb", tmp_path / "db", test_share=0.0)
    assert [part.path.name for part in corpus.songs[0].parts] == ["b.wav", "d.wav"]
    assert {k: len(v) for k, v in corpus.report.left_out.items()} == {
        "track without a file": 4,
        "stem listed without tracks": 1,
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "song whose metadata cannot be read (JSONDecodeError)"),
        ("[]", "song whose metadata lists no stems"),
        ('{"stems": []}', "song whose metadata lists no stems"),
    ],
)
def test_a_song_with_broken_metadata_is_left_out(index, moises_song, tmp_path, content, reason):
    moises_song(tmp_path / "a", TWO)
    (moises_song(tmp_path / "b", TWO) / "data.json").write_text(content)
    corpus = index("moisesdb", tmp_path, test_share=0.0)
    assert [song.id for song in corpus.songs] == ["a"]
    assert corpus.report.left_out == {reason: [str(tmp_path / "b" / "data.json")]}


def test_a_folder_without_songs_is_named(index, tmp_path):
    with pytest.raises(ConfigError, match=r"expected song folders with a data\.json, found none"):
        index("moisesdb", tmp_path)
