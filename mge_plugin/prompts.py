"""What a user or a label asks of each track, in words.

A prompt is a text, or a text a track:

    "a slow ballad"                                  the mixture's text
    {"source": "the sound of the bass"}              texts by track
"""

from collections.abc import Mapping, Sequence

from mge_plugin.tracks import Track

TEMPLATE = "The sound of the {label}"  # the paper's, section E.3

Prompt = str | Mapping[str, str | None] | None


def label_prompt(labels: str | Sequence[str]) -> str:
    """The paper's prompt for one label or several: "The sound of the bass, drums and piano"."""
    labels = [labels] if isinstance(labels, str) else list(labels)
    if not labels:
        raise ValueError("a prompt names one label or more, found none")
    *others, last = labels
    return TEMPLATE.format(label=f"{', '.join(others)} and {last}" if others else last)


def track_texts(prompt: Prompt) -> dict[Track, str]:
    """Normalise a prompt to the texts of the tracks that have one."""
    if prompt is None or isinstance(prompt, str):
        prompt = {Track.MIXTURE.label: prompt}
    if not isinstance(prompt, Mapping):
        raise TypeError(f"a prompt is a text or a text by track, found {type(prompt).__name__}")
    texts = {Track.parse(label): text for label, text in prompt.items()}
    for track, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise TypeError(f"the {track.label}'s prompt is a text, found {type(text).__name__}")
    return {track: text for track, text in texts.items() if text and text.strip()}
