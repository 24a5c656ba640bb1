"""What a user or a label asks of each track, in words or by an audio example.

A prompt is a text, or by track a text or more:

    "a slow ballad"                                              the mixture's text
    {"source": "the sound of the bass"}                          texts by track
    {"source": {"audio": tensor, "sample_rate": 44100}}          an audio example
    {"source": {"text": "a soft piano", "audio": tensor,         both, mixed: half and half, or
                "sample_rate": 44100, "text_weight": 0.7}}       the text's share
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mge_plugin.tracks import Track

TEMPLATE = "The sound of the {label}"  # the paper's, section E.3
_SLOT = "{label}"


@dataclass(frozen=True)
class TrackPrompt:
    """What is asked of one track of one item."""

    text: str | None = None
    audio: Tensor | None = None  # an example, (channels, samples) or (samples,)
    sample_rate: int | None = None  # of the example, Hz
    embedding: Tensor | None = None  # (width,), an example that is embedded already
    text_weight: float = 0.5  # share of the text where there is an example too

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise TypeError(f"a prompt's text is a text, found {type(self.text).__name__}")
        if not 0.0 <= self.text_weight <= 1.0:
            raise ValueError(f"text_weight: expected 0 to 1, found {self.text_weight}")
        if self.audio is not None:
            _check_audio(self.audio, self.sample_rate)

    @property
    def has_text(self) -> bool:
        """Whether there are words in it."""
        return bool(self.text and self.text.strip())

    @property
    def has_example(self) -> bool:
        """Whether there is audio, embedded or not."""
        return self.audio is not None or self.embedding is not None


def _check_audio(audio: Tensor, sample_rate: int | None) -> None:
    wanted = "an audio example is a tensor of floats, (channels, samples) or (samples,)"
    if not isinstance(audio, Tensor):
        raise TypeError(f"{wanted}, found {type(audio).__name__}")
    if audio.ndim not in (1, 2) or not audio.is_floating_point():
        raise ValueError(f"{wanted}, found {audio.dtype} of shape {tuple(audio.shape)}")
    if sample_rate is None:
        raise ValueError("an audio example needs its sample_rate")
    if sample_rate < 1:
        raise ValueError(f"sample_rate: expected 1 Hz or more, found {sample_rate}")


Prompt = str | Mapping[str, Any] | None


def label_prompt(labels: str | Sequence[str], template: str = TEMPLATE) -> str:
    """The prompt for one label or several: "The sound of the bass, drums and piano"."""
    labels = [labels] if isinstance(labels, str) else list(labels)
    if not labels:
        raise ValueError("a prompt names one label or more, found none")
    *others, last = labels
    words = f"{', '.join(others)} and {last}" if others else last
    return template.replace(_SLOT, words)


def template_problems(templates: Sequence[str]) -> list[str]:
    """What is wrong with templates, each of which has the labels' place once."""
    problems = [
        f"templates[{i}]: expected {_SLOT} once, found {template!r}"
        for i, template in enumerate(templates)
        if template.count(_SLOT) != 1
    ]
    return problems if templates else ["templates: expected one or more, found none"]


def track_prompts(prompt: Prompt) -> dict[Track, TrackPrompt]:
    """Normalise a prompt to those of the tracks that have one."""
    if prompt is None or isinstance(prompt, str):
        prompt = {Track.MIXTURE.label: prompt}
    if not isinstance(prompt, Mapping):
        raise TypeError(f"a prompt is a text or a text by track, found {type(prompt).__name__}")
    prompts = {Track.parse(label): _track_prompt(label, value) for label, value in prompt.items()}
    return {track: p for track, p in prompts.items() if p.has_text or p.has_example}


def _track_prompt(label: str, value: Any) -> TrackPrompt:
    if value is None or isinstance(value, str):
        return TrackPrompt(value)
    if isinstance(value, TrackPrompt):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"the {label}'s prompt is a text, found {type(value).__name__}")
    known = [field.name for field in dataclasses.fields(TrackPrompt)]
    if unknown := sorted(set(value).difference(known)):
        raise ValueError(f"the {label}'s prompt has {', '.join(known)}, found {unknown}")
    return TrackPrompt(**value)
