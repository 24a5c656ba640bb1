"""Keys of a corpus: unknown, foreign and impossible ones are errors that name the remedy."""

import dataclasses
from pathlib import Path

import pytest

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.corpora.index import READERS
from mge_plugin.data.corpora.reader import READER_OPTIONS, CorpusConfig
from mge_plugin.data.dataset import TripletsConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labls": []}, "d: unknown key 'labls', did you mean 'labels'?"),
        ({"type": "musdb"}, "d.type: unknown value 'musdb', did you mean 'musdb18'?"),
        (
            {"drop_bleed": True},
            "d: drop_bleed: an option of type 'medleydb', not of 'slakh'",
        ),
        (
            {"type": "musdb18", "test_share": 0.1},
            "d: test_share: an option of type 'moisesdb' or 'medleydb' or 'folder', "
            "not of 'musdb18'",
        ),
        ({"weight": "same"}, "d.weight: unknown value 'same', known: equal"),
        (
            {"labels": ["a"], "exclude_labels": ["b"]},
            "d: labels and exclude_labels: expected one of them, found both",
        ),
        (
            {"label_map": {"a": 1}},
            "d: label_map: expected words for each label, found {'a': 1}",
        ),
        (
            {"type": "folder", "test_share": 0.7, "validation_share": 0.7},
            "d: test_share and validation_share: expected 0 to 1, found [0.7, 0.7]",
        ),
        (
            {"on_duplicates": "leaveout"},
            "d.on_duplicates: unknown value 'leaveout', did you mean 'leave_out'?",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_the_remedy(keys, message):
    with pytest.raises(ConfigError) as caught:
        parse_section(CorpusConfig, {"id": "a", "path": "p"} | keys, "d")
    assert str(caught.value) == message


def test_every_type_has_a_reader_and_a_list_of_options():
    assert set(READERS) == set(READER_OPTIONS)
    for kind in READERS:
        assert CorpusConfig("a", "p", kind).type == kind


def test_the_docs_name_every_key():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [f.name for f in dataclasses.fields(CorpusConfig) if f.name not in text] == []


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ({}, {}, None),
        ({"weight": "equal"}, {"weight": "equal"}, None),
        ({"weight": 1}, {"weight": 0.5}, None),
        ({"weight": 2}, {}, "missing for b"),
        ({"weight": 1}, {"weight": 0}, "datasets: b: weight: expected a number above 0"),
        ({"weight": 1}, {"weight": "equal"}, "weight: .* found both"),
        ({"id": "b"}, {}, "datasets: id 'b' is used twice"),
    ],
)
def test_weights_are_numbers_for_all_equal_for_all_or_none(first, second, wrong):
    entries = [{"id": "a", "path": "p"} | first, {"id": "b", "path": "p"} | second]
    section = {"dataset_type": "mge_triplets", "datasets": entries}
    if wrong is None:
        parse_section(TripletsConfig, section, "d")
        return
    with pytest.raises(ConfigError, match=wrong):
        parse_section(TripletsConfig, section, "d")
