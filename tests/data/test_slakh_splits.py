"""The splits of Slakh: which songs are read, and what is said when there are none."""

import pytest

from mge_plugin.config import ConfigError


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_read_from_its_folder_and_omitted_never(slakh, two, split):
    for name in ("train", "validation", "test", "omitted"):
        slakh.song(f"Track_{name}", two, name)
    songs, _ = slakh.read(split)
    assert [(song.id, song.split) for song in songs] == [(f"Track_{split}", split)]


def test_omitted_songs_are_refused_when_asked_for(slakh, two):
    slakh.song("Track00001", two, "omitted")
    with pytest.raises(ConfigError, match=r"split: unknown value 'omitted', known: test, train"):
        slakh.read("omitted")
    with pytest.raises(ConfigError, match="omitted: its songs are duplicates"):
        type(slakh)(slakh.root / "omitted").read()
    with pytest.raises(ConfigError, match=r"expected song folders TrackNNNNN, found \['omitted'\]"):
        slakh.read()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_corpus_without_split_folders_is_read_whole_and_that_is_said(slakh, two, split):
    for name in ("Track00001", "Track00002"):
        slakh.song(name, two, None)
    slakh.song("Track00003", two, "omitted")
    songs, report = slakh.read(split)
    assert [(song.id, song.split) for song in songs] == [
        ("Track00001", split),
        ("Track00002", split),
    ]
    (line,) = report.lines()
    assert f"without split folders, all of it is used as '{split}'" in line


def test_a_missing_corpus_or_split_is_named(slakh, two, tmp_path):
    with pytest.raises(ConfigError, match=r"slakh: no such folder"):
        slakh.read()
    slakh.song("Track00001", two, "validation")
    with pytest.raises(ConfigError, match=r"slakh: has no split 'train', found \['validation'\]"):
        slakh.read()
    with pytest.raises(ConfigError, match=r"unknown value 'validate', did you mean 'validation'"):
        slakh.read("validate")
    with pytest.raises(ConfigError, match=r"expected song folders TrackNNNNN, found \['slakh'\]"):
        type(slakh)(tmp_path).read()


def test_an_empty_split_is_named(slakh):
    (slakh.root / "train").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"train: expected song folders TrackNNNNN, found \[\]"):
        slakh.read()


def test_a_split_without_a_usable_song_says_why(slakh, two):
    slakh.song("Track00001", two[:1])
    (slakh.song("Track00002", two) / "metadata.yaml").unlink()
    expected = r"none of 2 songs is usable: left out 1: song without metadata .* 1: song with fewer"
    with pytest.raises(ConfigError, match=expected):
        slakh.read()


def test_a_song_that_is_in_two_splits_is_reported_once_with_both_places(slakh, two, caplog):
    here = slakh.song("Track00001", two, "train", UUID="a1")
    slakh.song("Track00002", two, "train", UUID="b2")
    slakh.song("Track00003", two, "train", UUID=None)
    slakh.song("Track00007", two, "validation", UUID=None)
    there = slakh.song("Track00008", two, "test", UUID="a1")
    slakh.song("Track00009", two, "omitted", UUID="b2")
    songs, report = slakh.read()
    assert len(songs) == 3
    what = "song whose MIDI file (UUID) is in another split too"
    assert report.odd == {what: [f"{here} and {there}"]}
    report.log("corpus")
    assert len(caplog.records) == 1
