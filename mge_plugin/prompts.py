"""Prompts: what a track should be, as text, as an audio example, or as a mix of both.

A prompt is written as a text, an example, or a mapping from track labels to them:

    "a slow ballad"                                              text
    {"audio": array, "sample_rate": 44100}                       an audio example
    {"text": "a soft piano", "audio": array,                     both, mixed half and half,
     "sample_rate": 44100, "text_weight": 0.7}                   or by the text's weight
    {"source": "the sound of the bass", "mixture": "a ballad"}   prompts of several tracks

`track_prompts` converts it once; everything else reads `TrackPrompt`s by track.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mge_plugin.files import output_name
from mge_plugin.tracks import Track

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TEMPLATE = "The sound of the {label}"  # the paper's, section E.3
_SLOT = "{label}"
_TEMPLATED = re.compile(r"^\W*the sound of (?:the |an? )?", re.IGNORECASE)


@dataclass(frozen=True)
class TrackPrompt:
    """The prompt of one track of one item."""

    text: str | None = None
    audio: "Tensor | np.ndarray | None" = None  # an example, (channels, samples) or (samples,)
    sample_rate: int | None = None  # of the example, Hz
    embedding: "Tensor | None" = None  # (width,), an example that is embedded already
    text_weight: float = 0.5  # weight of the text if there is an example too

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise TypeError(f"a prompt's text is a text, found {type(self.text).__name__}")
        if self.text is not None and _SLOT in self.text:
            raise ValueError(f"a prompt names an instrument in place of {_SLOT}: {self.text!r}")
        if not 0.0 <= self.text_weight <= 1.0:
            raise ValueError(f"text_weight: expected 0 to 1, found {self.text_weight}")
        if self.audio is not None:
            _check_audio(self.audio, self.sample_rate)

    @property
    def has_text(self) -> bool:
        """Whether the text has words."""
        return bool(self.text and self.text.strip())

    @property
    def has_example(self) -> bool:
        """Whether there is audio, embedded or not."""
        return self.audio is not None or self.embedding is not None


def _check_audio(audio: Any, sample_rate: int | None) -> None:
    expected = "an audio example is an array of floats, (channels, samples) or (samples,)"
    if not hasattr(audio, "ndim") or not hasattr(audio, "dtype"):
        raise TypeError(f"{expected}, found {type(audio).__name__}")
    if audio.ndim not in (1, 2) or "float" not in str(audio.dtype):
        raise ValueError(f"{expected}, found {audio.dtype} of shape {tuple(audio.shape)}")
    if sample_rate is None:
        raise ValueError("an audio example needs its sample_rate")
    if sample_rate < 1:
        raise ValueError(f"sample_rate: expected 1 Hz or more, found {sample_rate}")


Prompt: TypeAlias = str | Mapping[Any, Any] | TrackPrompt | None
TrackPrompts: TypeAlias = dict[Track, TrackPrompt]


def label_prompt(labels: str | Sequence[str], template: str = TEMPLATE) -> str:
    """The prompt for one or several labels: "The sound of the bass, drums, and piano"."""
    labels = [labels] if isinstance(labels, str) else list(labels)
    if not labels:
        raise ValueError("a prompt names one label or more, found none")
    *others, last = labels
    comma = "," if len(others) > 1 else ""  # the paper's wording
    words = f"{', '.join(others)}{comma} and {last}" if others else last
    return template.replace(_SLOT, words)


def template_problems(templates: Sequence[str]) -> list[str]:
    """What is wrong with templates; each needs the place of the labels exactly once."""
    problems = [
        f"templates[{i}]: expected {_SLOT} once, found {template!r}"
        for i, template in enumerate(templates)
        if template.count(_SLOT) != 1
    ]
    return problems if templates else ["templates: expected one or more, found none"]


def track_prompts(prompt: Prompt, track: Track = Track.MIXTURE) -> TrackPrompts:
    """Prompts by track; a text or an example that names no track is that of `track`.

    Tracks without text and example are left out.
    """
    if prompt is None or isinstance(prompt, str | TrackPrompt):
        prompt = {track: prompt}
    if not isinstance(prompt, Mapping):
        raise TypeError(f"a prompt is a text or a text by track, found {type(prompt).__name__}")
    if prompt and set(prompt) <= {field.name for field in dataclasses.fields(TrackPrompt)}:
        prompt = {track: prompt}
    by_track = {
        name if isinstance(name, Track) else Track.parse(name): value
        for name, value in prompt.items()
    }
    prompts = {track: _track_prompt(track.label, value) for track, value in by_track.items()}
    return {track: p for track, p in prompts.items() if p.has_text or p.has_example}


def _track_prompt(label: str, value: Any) -> TrackPrompt:
    if value is None or isinstance(value, str):
        return TrackPrompt(value)
    if isinstance(value, TrackPrompt):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"the {label}'s prompt is a text, found {type(value).__name__}")
    fields = [field.name for field in dataclasses.fields(TrackPrompt)]
    if unknown := sorted(set(value).difference(fields)):
        raise ValueError(f"the {label}'s prompt has {', '.join(fields)}, found {unknown}")
    return TrackPrompt(**value)


def plain_prompt(prompts: TrackPrompts, track: Track) -> Any:
    """Prompts as JSON has them: a text if `track` has only that, an example by its length."""
    plain = {name.label: _plain(prompt) for name, prompt in prompts.items()}
    return plain.get(track.label) if set(prompts) <= {track} else plain


def _plain(prompt: TrackPrompt) -> Any:
    if not prompt.has_example:
        return prompt.text
    values: dict[str, Any] = {"audio": "an embedding"}
    if prompt.audio is not None:
        values = {"audio": f"audio, {prompt.audio.shape[-1]} samples"}
        values["sample_rate"] = prompt.sample_rate
    if prompt.has_text:
        values |= {"text": prompt.text, "text_weight": prompt.text_weight}
    return values


def prompt_names(prompts: Sequence[TrackPrompts], reserved: Sequence[str] = ()) -> list[str]:
    """A name for the source of each prompt: "bass" for "The sound of the bass".

    A name that occurs twice, or is `reserved`, gets a number: "bass_2".
    """
    names: list[str] = []
    for prompt in prompts:
        own = prompt.get(Track.SOURCE) or next(iter(prompt.values()), TrackPrompt())
        text = (own.text or "").strip() or "example"
        name = base = output_name(_TEMPLATED.sub("", text) or text)
        number = 1
        while name.casefold() in {other.casefold() for other in (*names, *reserved)}:
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names
