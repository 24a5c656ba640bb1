"""Which stems are the source, by the paper and by option."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.songs import Part, Song, Stem
from mge_plugin.data.triplets import SourceConfig, _absent_label, _choose_source

LABELS = ("bass", "piano", "piano", "drums", "other")


def stem(label, number):
    return Stem(label, (Part(Path(f"{number}.wav"), 16_000, 16_000),), label != "other")


SONG = Song("a", Path("a"), "train", tuple(stem(name, i) for i, name in enumerate(LABELS)))


def drawn(song=SONG, times=3000, **section):
    config = parse_section(SourceConfig, section, "source")
    rng = np.random.default_rng(0)
    draws = [_choose_source(song, rng, config) for _ in range(times)]
    return [(tuple(song.stems[i] for i in numbers), group) for numbers, group in draws]


def shares(draws):
    names = Counter(group or stems[0].label for stems, group in draws)
    return {name: round(count / len(draws), 1) for name, count in names.items()}


def test_the_paper_draws_one_stem_of_those_that_may_be_asked():
    draws = drawn()
    assert {len(stems) for stems, _ in draws} == {1}
    counts = Counter(stems[0] for stems, _ in draws)
    assert len(counts) == 4
    assert min(counts.values()) > 3000 / 4 - 120


def test_labels_can_be_as_likely_as_each_other():
    draws = drawn(choose="labels")
    assert shares(draws) == {"bass": 0.3, "piano": 0.3, "drums": 0.3}
    assert len({stems[0] for stems, _ in draws}) == 4  # either piano


def test_several_stems_may_be_asked_together_but_never_all():
    draws = drawn(max_stems=9)
    sizes = Counter(len(stems) for stems, _ in draws)
    assert set(sizes) == {1, 2, 3, 4}
    assert min(sizes.values()) > 3000 / 4 - 120
    assert all(len(set(stems)) == len(stems) for stems, _ in draws)
    pair = replace(SONG, stems=SONG.stems[:2])
    assert {len(stems) for stems, _ in drawn(pair, max_stems=9)} == {1}


def test_a_group_is_one_source_with_its_own_name_where_a_song_has_all_of_it():
    draws = drawn(groups={"rhythm section": ["bass", "drums"], "strings": ["violin", "cello"]})
    assert shares(draws)["rhythm section"] == 0.2
    for stems, group in draws:
        if group:
            assert [s.label for s in stems] == ["bass", "drums"]
    rhythm = replace(SONG, stems=(SONG.stems[0], SONG.stems[3]))
    assert all(group is None for _, group in drawn(rhythm, groups={"all": ["bass", "drums"]}))


def test_what_is_absent_does_not_sound():
    rng = np.random.default_rng(0)
    found = {
        _absent_label(["bass", "piano"], ["bass", "drums", "piano", "harp"], rng) for _ in range(50)
    }
    assert found == {"drums", "harp"}
    assert _absent_label(["bass"], ["bass"], rng) is None


@pytest.mark.parametrize(
    ("sounding", "absent"),
    [
        ("electric guitar", {"bass", "chromatic percussion"}),
        ("percussion", {"bass", "guitar"}),
        ("male singer and bass", {"chromatic percussion", "guitar"}),
    ],
)
def test_what_may_be_the_same_instrument_is_not_absent(sounding, absent):
    rng = np.random.default_rng(0)
    labels = ["bass", "chromatic percussion", "guitar"]
    assert {_absent_label([sounding], labels, rng) for _ in range(50)} == absent


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({"max_stems": 0}, "max_stems: expected 1 or more, found 0"),
        ({"p_absent": 1.5}, r"p_absent: expected 0 to 1, found 1\.5"),
        ({"groups": {"a": ["bass"]}}, r"groups\.a: expected a list of 2 labels or more"),
        ({"groups": {"a": "bass"}}, r"groups\.a: expected a list of 2 labels or more"),
        ({"choose": "stem"}, "did you mean 'stems'"),
    ],
)
def test_what_cannot_be_chosen(section, wrong):
    with pytest.raises(ConfigError, match=wrong):
        parse_section(SourceConfig, section, "source")
