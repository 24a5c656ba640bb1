"""MUSDB18 and MUSDB18-HQ: stems of each song, splits, and what a wrong layout is told."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import read_window
from mge_plugin.data.triplets import Format, Window, make_triplet
from mge_plugin.tracks import Track

STEMS = ["drums", "bass", "other", "vocals"]
HQ = ["drums", "bass", "other", "vocals", "mixture"]


@pytest.fixture
def hq(tmp_path, write):
    """Three songs of MUSDB18-HQ, one of them musdb's validation."""
    songs = ("train/A - B", "train/Leaf - Summerghost", "test/C [x] - é 日本.")
    for song in songs:
        for stem in HQ:
            write(tmp_path / "hq" / song / f"{stem}.wav", channels=2)
    return tmp_path / "hq"


@pytest.fixture
def packed(tmp_path, write_mp4):
    for song in ("train/A - B", "train/Leaf - Summerghost", "test/C - D"):
        write_mp4(tmp_path / "musdb18" / f"{song}.stem.mp4", samples=12_000, cover=True)
    return tmp_path / "musdb18"


def test_a_song_is_four_streams_of_its_file_and_other_is_never_asked_for(index, packed):
    corpus = index("musdb18", packed, split="test")
    (song,) = corpus.songs
    assert (song.id, song.split) == ("C - D", "test")
    assert [stem.label for stem in song.stems] == STEMS
    assert [part.stream for part in song.parts] == [1, 2, 3, 4]
    assert [stem.label for stem in song.sources] == ["drums", "bass", "vocals"]
    assert corpus.report.lines() == []
    assert len(index("musdb18", packed, query_other=True).songs[0].sources) == 4


def test_a_triplet_of_a_container_is_the_sum_of_its_streams(index, packed):
    (song,) = index("musdb18", packed, split="test").songs
    triplet = make_triplet(Window(song, (1,), 2000), Format(44_100, 4000, 2))
    streams = [read_window(stem.parts[0], 2000, 4000) for stem in song.stems]
    assert_array_equal(triplet.audio[Track.SOURCE], streams[1])
    np.testing.assert_allclose(triplet.audio[Track.MIXTURE], sum(streams), atol=1e-6)


@pytest.mark.parametrize("kind", ["musdb18", "musdb18_hq"])
@pytest.mark.parametrize(
    ("split", "songs"),
    [
        ("train", ["A - B", "Leaf - Summerghost"]),
        ("train_86", ["A - B"]),
        ("validation", ["Leaf - Summerghost"]),
    ],
)
def test_train_is_all_of_its_folder_and_musdbs_own_division_can_be_asked_for(
    index, packed, hq, kind, split, songs
):
    corpus = index(kind, packed if kind == "musdb18" else hq, split=split)
    assert [song.id for song in corpus.songs] == songs
    assert {song.split for song in corpus.songs} == {split}
    with pytest.raises(ConfigError, match=r"split: unknown value 'valid', known: test, train"):
        index(kind, packed, split="valid")


def test_another_number_of_streams_is_refused(index, packed, write_mp4):
    write_mp4(packed / "train" / "four.stem.mp4", 4, 4000)
    (packed / "train" / "empty.STEM.mp4").write_bytes(b"")
    report = index("musdb18", packed).report
    wrong = "song with 4 audio streams, expected 5 (mixture, drums, bass, other, vocals)"
    assert report.left_out[wrong] == [str(packed / "train" / "four.stem.mp4")]
    (broken,) = report.left_out["unreadable stem"]
    assert "empty.STEM.mp4" in broken


def test_without_pyav_one_sentence_says_what_to_install(index, packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"stems found, but PyAV is needed .*mge-plugin\[musdb\]"):
        index("musdb18", packed)


def test_the_type_for_the_other_layout_is_suggested(index, packed, hq):
    with pytest.raises(ConfigError, match=r"expected files \*\.stem\.mp4 .* use type 'musdb18_hq'"):
        index("musdb18", hq)
    with pytest.raises(ConfigError, match=r"expected song folders .* use type 'musdb18'"):
        index("musdb18_hq", packed)


def test_hq_songs_are_their_stems_and_the_mixture_file_is_not_one(index, hq, labels):
    (hq / "train" / "A - B" / "bass.wav").rename(hq / "train" / "A - B" / "Bass.WAV")
    corpus = index("musdb18_hq", hq)
    assert labels(corpus) == {"A - B": STEMS, "Leaf - Summerghost": STEMS}
    assert labels(index("musdb18_hq", hq, split="test")) == {"C [x] - é 日本.": STEMS}
    assert corpus.report.lines() == []


def test_an_hq_song_without_a_stem_keeps_the_others_and_that_is_said(index, hq, labels):
    (hq / "train" / "A - B" / "bass.wav").unlink()
    corpus = index("musdb18_hq", hq)
    assert labels(corpus)["A - B"] == ["drums", "other", "vocals"]
    place = str(hq / "train" / "A - B" / "bass.wav")
    assert corpus.report.left_out == {"stem whose file is missing": [place]}
