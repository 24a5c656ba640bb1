"""Prompts: what a user or a label asks of each track."""

import pytest

from mge_plugin.prompts import label_prompt, track_texts
from mge_plugin.tracks import Track


@pytest.mark.parametrize(
    ("labels", "prompt"),
    [
        ("bass", "The sound of the bass"),
        (["bass"], "The sound of the bass"),
        (("bass", "drums"), "The sound of the bass and drums"),
        (("bass", "drums", "synth lead"), "The sound of the bass, drums and synth lead"),
    ],
)
def test_labels_become_the_prompt_of_the_paper(labels, prompt):
    assert label_prompt(labels) == prompt


def test_a_prompt_of_no_labels_is_an_error():
    with pytest.raises(ValueError, match="one label or more, found none"):
        label_prompt([])


def test_a_prompt_is_a_text_of_the_mixture_or_texts_by_track():
    assert track_texts("a ballad") == {Track.MIXTURE: "a ballad"}
    assert track_texts({"source": "bass", "submixture": None, "mixture": " "}) == {
        Track.SOURCE: "bass"
    }
    assert track_texts(None) == track_texts({}) == {}


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (["bass"], TypeError, "a text or a text by track, found list"),
        ({"source": 5}, TypeError, "the source's prompt is a text, found int"),
        ({"sauce": "bass"}, ValueError, "unknown track 'sauce', expected one of"),
    ],
)
def test_a_prompt_of_another_form_is_named(prompt, error, message):
    with pytest.raises(error, match=message):
        track_texts(prompt)
