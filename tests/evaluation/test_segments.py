"""Segments: how they are drawn, saved and checked."""

import copy
import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest

from mge_plugin.config import ConfigError
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation.segments import (
    draw_segments,
    load_segments,
    read_excerpt,
    save_segments,
)
from tests.inference.conftest import RATE, WINDOW

FORM = Format(RATE, WINDOW, 1)


@pytest.fixture
def draw(corpus):
    def run(task="extract", count=4, labels=("bass", "drums"), seed=0, **options):
        return draw_segments(task, [corpus], FORM, labels, count, seed, **options)

    return run


@pytest.fixture
def songs(corpus):
    return {song.id: song for song in corpus.songs}


def test_the_targets_of_extract_sound_and_the_mixture_is_the_sum_of_stems(draw, songs):
    segments = draw()
    present = [s for s in segments if not s.absent]
    assert [s.group for s in present] == ["bass"] * 4 + ["drums"] * 4
    for segment in present:
        excerpt = read_excerpt(segment, songs[segment.song], 1)
        assert excerpt.truth.shape == (1, WINDOW) and excerpt.truth.any()
        everything = sum(
            read_excerpt(replace(segment, wanted=(label,)), songs[segment.song], 1).truth
            for label in {stem.label for stem in songs[segment.song].stems}
        )
        np.testing.assert_allclose(excerpt.mixture, everything, atol=1e-5)
    assert len({s.id for s in segments}) == len(segments)


def test_absent_segments_are_of_songs_without_the_label(draw, songs):
    absent = [s for s in draw(count=8, labels=("theremin", "bass")) if s.absent]
    assert [s.group for s in absent] == ["theremin"] * 2
    excerpt = read_excerpt(absent[0], songs[absent[0].song], 1)
    assert not excerpt.truth.any() and excerpt.mixture.any()


@pytest.mark.parametrize("task", ["generate", "compose"])
def test_all_mixtures_of_a_corpus_are_one_group(draw, task):
    assert {s.group for s in draw(task)} == {"mini"}


def test_add_splits_the_labels_in_every_way(draw):
    """All but the empty and the whole set are the target, the others given."""
    segments = draw("add", 1, ("bass", "drums", "piano"))
    groups = {"bass", "drums", "piano", "bass+drums", "bass+piano", "drums+piano"}
    assert {s.group for s in segments} <= groups
    for segment in segments:
        assert set(segment.wanted) | set(segment.given) == {"bass", "drums", "piano"}


def test_add_can_give_all_other_stems_of_the_song(draw, songs):
    """Table 2's columns of S_B; a single label is enough."""
    segments = draw("add", 3, ("bass",), given="rest")
    assert [s.group for s in segments] == ["bass"] * 3
    for segment in segments:
        song = songs[segment.song]
        assert {*segment.given, "bass"} == {stem.label for stem in song.stems}
        excerpt = read_excerpt(segment, song, 1)
        whole = read_excerpt(replace(segment, task="extract"), song, 1)
        np.testing.assert_allclose(excerpt.mixture, whole.mixture, atol=1e-6)
        np.testing.assert_allclose(excerpt.given, whole.mixture - whole.truth, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "labels", "named"),
    [
        ("add", ("bass",), "--given rest"),
        ("add", ("bass", "kazoo"), "bass, kazoo"),
        ("extract", ("kazoo",), None),
    ],
)
def test_what_cannot_be_drawn_is_an_error(draw, task, labels, named):
    if named is None:  # a quarter of the segments are of songs without it
        assert all(s.absent for s in draw(task, labels=labels))
    else:
        with pytest.raises(ConfigError, match=named):
            draw(task, labels=labels)


def test_the_same_seed_draws_the_same_segments_and_a_file_keeps_them(draw, tmp_path):
    segments = draw()
    assert draw() == segments != draw(seed=1)
    save_segments(segments, tmp_path / "segments.json")
    assert load_segments(tmp_path / "segments.json") == segments


def paths_of(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_of(value[key], (*path, key))


def test_a_changed_file_is_read_or_refused(draw, tmp_path):
    """500 mutations of every place; nothing but a ConfigError that names the file."""
    values = [
        None,
        True,
        -1,
        0,
        1.5,
        2**70,
        1e308,
        "",
        "../x",
        "/x",
        "a\0b",
        "\ud800",
        [],
        {},
        [[]],
    ]
    content = {"format": 1, "segments": [asdict(s) for s in draw(count=1)]}
    places, rng, refused = list(paths_of(content)), random.Random(0), 0
    file = tmp_path / "segments.json"
    for _ in range(500):
        changed = copy.deepcopy({"": content})
        *path, last = ("", *rng.choice(places))
        parent = changed
        for key in path:
            parent = parent[key]
        if rng.random() < 0.2:
            del parent[last]
        else:
            parent[last] = rng.choice(values)
        file.write_text(json.dumps(changed.get("")))
        try:
            load_segments(file)
        except ConfigError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 300


def test_an_id_that_occurs_twice_is_refused(draw, tmp_path):
    save_segments(draw(count=1)[:1] * 2, tmp_path / "segments.json")
    with pytest.raises(ConfigError, match="id"):
        load_segments(tmp_path / "segments.json")
