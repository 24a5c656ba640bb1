"""Labels in words, which stems are used, which may be asked for, and what has to be said."""

import numpy as np
import pytest

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.corpora.select import _label_in_words
from mge_plugin.data.triplets import Format, SourceConfig, draw_window, make_triplet
from mge_plugin.tracks import Track

CONFIG = CorpusConfig("c", "p", label_map={"vox": "vocals", "keyboards": "synth", "FX": "other"})


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["vox"], "vocals"),
        (["VOX"], "vocals"),
        (["Electric Bass"], "electric bass"),
        (["other_keys"], "synth"),
        (["male singer", "vox"], "male singer and vocals"),
        (["vox", "vox", "FX"], "vocals"),
        (["FX"], "other"),
        (["  "], "other"),
        (["Unknown"], "other"),
    ],
)
def test_the_config_goes_before_the_readers_words_before_the_label(labels, word):
    assert _label_in_words(labels, {"other_keys": "keyboards"}, CONFIG) == word


@pytest.fixture
def songs(write, tmp_path):
    for song in ("a", "b"):
        for stem in ("bass", "drums", "flute", "other"):
            write(tmp_path / song / f"{stem}.wav")
    return tmp_path


def test_a_subset_and_the_rest_share_no_stem_and_together_are_all(index, songs, labels):
    some = labels(index("folder", songs, labels=["bass", "drums"]))
    rest = labels(index("folder", songs, exclude_labels=["bass", "drums"]))
    assert some == {"a": ["bass", "drums"], "b": ["bass", "drums"]}
    assert rest == {"a": ["flute", "other"], "b": ["flute", "other"]}


def test_other_is_in_songs_but_never_the_source_unless_asked_for(index, songs):
    (song, _) = index("folder", songs).songs
    assert len(song.stems) == 4 and len(song.sources) == 3
    (song, _) = index("folder", songs, query_other=True).songs
    assert len(song.sources) == 4
    (song, _) = index("folder", songs, label_map={"other": "synth"}).songs
    assert len(song.sources) == 4


def test_other_is_heard_in_the_submixture_and_never_drawn_as_the_source(index, songs):
    (song, _) = index("folder", songs).songs
    form = Format(16_000, 400, 1)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        window = draw_window(song, 0, lambda stem, start: True, rng, SourceConfig())
        triplet = make_triplet(window, form)
        assert "other" not in triplet.labels[Track.SOURCE]
        assert "other" in triplet.labels[Track.SUBMIXTURE]


def test_songs_of_which_nothing_may_be_asked_are_left_out(index, songs):
    with pytest.raises(ConfigError, match="song without a stem that may be the source"):
        index("folder", songs, label_map=dict.fromkeys(("bass", "drums", "flute"), "unknown"))


def test_songs_and_stems_can_be_excluded_and_what_names_nothing_is_told(index, songs, labels):
    corpus = index("folder", songs, exclude=["a", "b/flute", "b/bas"])
    assert labels(corpus) == {"b": ["bass", "drums", "other"]}
    assert corpus.report.left_out == {"song excluded by the config": [str(songs / "a")]}
    assert list(corpus.report.odd) == ["exclude: nothing is called 'b/bas'"]


def test_a_misspelt_label_is_told_with_the_nearest(index, songs):
    report = index("folder", songs, exclude_labels=["drms"]).report
    (told,) = report.odd
    assert told == "exclude_labels: no stem is labelled 'drms', did you mean 'drums'?"


def test_mixture_only_makes_one_stem_of_all(index, slakh, two):
    slakh.song(stems=two)
    (song,) = index("slakh", slakh.root, mixture_only=True).songs
    (stem,) = song.stems
    assert song.mixture_only and stem.label == "mixture" and len(stem.parts) == 2
    assert song.sources == ()


@pytest.mark.parametrize(("choice", "songs"), [("warn", 2), ("leave_out", 1)])
def test_duplicates_across_splits_are_told_or_left_out(index, slakh, two, choice, songs):
    for name, split, uuid in (("T1", "train", "x"), ("T2", "train", "y"), ("T3", "test", "x")):
        slakh.song(name, two, split, UUID=uuid)
    corpus = index("slakh", slakh.root, on_duplicates=choice)
    assert len(corpus.songs) == songs
    assert len(corpus.report.lines()) == 1 and "another split too" in corpus.report.lines()[0]
    with pytest.raises(ConfigError, match=r"T1 and .*T3"):
        index("slakh", slakh.root, on_duplicates="error")
