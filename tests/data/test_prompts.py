"""Prompts: what a user or a label asks of each track."""

import pytest
import torch

from mge_plugin.prompts import TrackPrompt, label_prompt, template_problems, track_prompts
from mge_plugin.tracks import Track


@pytest.mark.parametrize(
    ("labels", "prompt"),
    [
        ("bass", "The sound of the bass"),
        (["bass"], "The sound of the bass"),
        (("bass", "drums"), "The sound of the bass and drums"),
        (("bass", "drums", "synth lead"), "The sound of the bass, drums, and synth lead"),
    ],
)
def test_labels_become_the_prompt_of_the_paper(labels, prompt):
    assert label_prompt(labels) == prompt


def test_a_prompt_of_no_labels_is_an_error():
    with pytest.raises(ValueError, match="one label or more, found none"):
        label_prompt([])


def test_a_prompt_is_a_text_of_the_mixture_or_texts_by_track():
    assert track_prompts("a ballad") == {Track.MIXTURE: TrackPrompt("a ballad")}
    assert track_prompts({"source": "bass", "submixture": None, "mixture": " "}) == {
        Track.SOURCE: TrackPrompt("bass")
    }
    assert track_prompts(None) == track_prompts({}) == {}


def test_a_track_is_asked_by_text_and_example():
    audio = torch.zeros(1, 9)
    prompt = {"text": "bass", "audio": audio, "sample_rate": 8, "text_weight": 0.25}
    asked = track_prompts({"source": prompt})[Track.SOURCE]
    assert (asked.text, asked.sample_rate, asked.text_weight) == ("bass", 8, 0.25)
    assert asked.audio is audio
    assert asked.has_text
    assert asked.has_example
    assert track_prompts({"source": asked})[Track.SOURCE] is asked
    assert track_prompts({"source": {"embedding": torch.ones(2)}})[Track.SOURCE].has_example


def test_a_label_goes_into_any_template():
    assert label_prompt(["bass", "drums"], "{label}, solo") == "bass and drums, solo"
    assert label_prompt("a {b} c", "{label} alone") == "a {b} c alone"


def test_a_template_has_one_place_for_the_labels():
    assert template_problems(["The sound of the {label}", "{label}"]) == []
    assert template_problems(["bass", "{label} {label}"]) == [
        "templates[0]: expected {label} once, found 'bass'",
        "templates[1]: expected {label} once, found '{label} {label}'",
    ]
    assert template_problems([]) == ["templates: expected one or more, found none"]


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (["bass"], TypeError, "a text or a text by track, found list"),
        ({"source": 5}, TypeError, "the source's prompt is a text, found int"),
        ({"sauce": "bass"}, ValueError, "unknown track 'sauce', expected one of"),
        ({"source": {"txt": "bass"}}, ValueError, r"the source's prompt has text.*found \['txt'\]"),
        ({"source": {"text": 5}}, TypeError, "a prompt's text is a text, found int"),
        ("The sound of the {label}", ValueError, "an instrument in place of {label}"),
        ({"source": {"audio": torch.ones(9)}}, ValueError, "example needs its sample_rate"),
        ({"source": {"audio": [0.5]}}, TypeError, "example is an array of floats.*found list"),
        (
            {"source": {"audio": torch.ones(1, 2, 9), "sample_rate": 8}},
            ValueError,
            r"\(channels, samples\) or \(samples,\), found torch.float32 of shape \(1, 2, 9\)",
        ),
        (
            {"source": {"audio": torch.ones(9, dtype=torch.int16), "sample_rate": 8}},
            ValueError,
            r"an array of floats.*found torch.int16 of shape \(9,\)",
        ),
        (
            {"source": {"audio": torch.ones(9), "sample_rate": 0}},
            ValueError,
            "sample_rate: expected 1 Hz or more, found 0",
        ),
        ({"source": {"text_weight": 1.5}}, ValueError, "text_weight: expected 0 to 1, found 1.5"),
    ],
)
def test_a_prompt_of_another_form_is_named(prompt, error, message):
    with pytest.raises(error, match=message):
        track_prompts(prompt)
