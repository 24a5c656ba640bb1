"""The tasks: which track is given, which is prompted; and one task asked for on one song."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mge_plugin.inference.request import check_audio, check_prompt, check_seconds, check_seed
from mge_plugin.prompts import Prompt
from mge_plugin.tracks import Track


@dataclass(frozen=True)
class Task:
    """One row of the paper's section 2.3."""

    given: Track | None  # known; the other tracks are sampled
    prompted: Track  # the track that the text describes
    several: bool = False  # whether it takes more than one prompt


TASKS = {
    "generate": Task(given=None, prompted=Track.MIXTURE),
    "extract": Task(given=Track.MIXTURE, prompted=Track.SOURCE, several=True),
    "add": Task(given=Track.SUBMIXTURE, prompted=Track.SOURCE, several=True),
    "accompany": Task(given=Track.SOURCE, prompted=Track.SUBMIXTURE),
    "compose": Task(given=None, prompted=Track.SOURCE, several=True),
}


def by_track(prompt: Prompt, task: Task) -> Prompt:
    """A text or an example is the task's prompted track's; texts by track stay as they are."""
    if isinstance(prompt, dict) and set(prompt) <= {track.label for track in Track}:
        return prompt
    return {task.prompted.label: prompt}


def together(task: Task, prompted: np.ndarray, given: np.ndarray | None) -> dict[Track, np.ndarray]:
    """All tracks (channels, samples) of the prompted and the given one: m = u + s.

    Where nothing is given the prompted track is the mixture, and the whole of it one of its parts.
    """
    silence = np.zeros_like(prompted)
    if task.given is Track.MIXTURE:
        return {Track.MIXTURE: given, Track.SUBMIXTURE: given - prompted, Track.SOURCE: prompted}
    if task.given is not None:
        return {Track.MIXTURE: given + prompted, task.given: given, task.prompted: prompted}
    rest = Track.SUBMIXTURE if task.prompted is Track.SOURCE else Track.SOURCE
    whole = Track.SOURCE if rest is Track.SUBMIXTURE else Track.SUBMIXTURE
    return {Track.MIXTURE: prompted, whole: prompted, rest: silence}


@dataclass(frozen=True)
class Keep:
    """A track that is there already, of which only some seconds are made anew."""

    audio: np.ndarray  # (channels, samples) float32, at the request's rate
    redo: tuple[tuple[float, float], ...]  # spans in seconds, each a start and an end

    def __post_init__(self) -> None:
        check_audio(self.audio, "keep")
        for start, end in self.redo:
            if not (0 <= start < end and math.isfinite(end)):
                raise ValueError(
                    f"redo: expected a start from 0 up and an end after it in seconds, "
                    f"found {start:g} to {end:g}"
                )
        if not self.redo:
            raise ValueError("redo: expected one span of seconds or more, found none")


@dataclass(frozen=True)
class Init:
    """A sound of the prompted track to begin from, in place of noise alone: a variation of it."""

    audio: np.ndarray  # (channels, samples) float32, at the request's rate
    level: float  # t: from 0, the sound as it is, to 1, noise alone

    def __post_init__(self) -> None:
        check_audio(self.audio, "init")
        if not 0 < self.level <= 1:
            raise ValueError(f"init: expected a level over 0 and up to 1, found {self.level}")


@dataclass(frozen=True)
class Request:
    """One task on one song, or on none."""

    task: str  # a name in TASKS
    prompts: tuple[Prompt, ...] = (None,)  # of the task's prompted track, or texts by track
    audio: np.ndarray | None = None  # the given track, (channels, samples) float32
    sample_rate: int | None = None  # of the audio, Hz
    seconds: float | None = None  # length where no audio is given; None is one window
    seed: int | None = None  # None is the sampling's
    negative: Prompt = None  # what to move away from
    keep: Keep | None = None  # of the prompted track
    init: Init | None = None  # of the prompted track

    def __post_init__(self) -> None:
        task = TASKS.get(self.task)
        if task is None:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, found {self.task!r}")
        check_seconds(self.seconds)
        if self.seed is not None:
            check_seed(self.seed)
        _check_prompts(self.task, self.prompts)
        if task.given is not None and self.audio is None:
            raise ValueError(f"{self.task}: needs the {task.given.label}'s audio, found none")
        if task.given is None and self.audio is not None:
            raise ValueError(f"{self.task}: is given no audio, found some")
        if self.audio is not None:
            check_audio(self.audio)
        if self.sample_rate is not None and self.sample_rate < 1:
            raise ValueError(f"sample_rate: expected 1 Hz or more, found {self.sample_rate}")
        heard = (self.audio, self.keep, self.init)
        if any(audio is not None for audio in heard) and self.sample_rate is None:
            raise ValueError("sample_rate: the audio needs one, found none")
        if self.keep is not None:
            self._check_keep()
        if self.init is not None and len(self.prompts) > 1:
            raise ValueError(f"init: begins one track, found {len(self.prompts)} prompts")

    @property
    def like(self) -> np.ndarray | None:
        """The audio whose rate, channels and length the result has; None is the model's."""
        for given in (self.keep, self.init if self.seconds is None else None):
            if self.audio is None and given is not None:
                return given.audio
        return self.audio

    def _check_keep(self) -> None:
        if len(self.prompts) > 1:
            raise ValueError(f"keep: one track is kept, found {len(self.prompts)} prompts")
        if self.task == "compose":
            raise ValueError("keep: compose makes several tracks; extract, add or accompany one")
        length = self.keep.audio.shape[1]
        if self.audio is not None and length != self.audio.shape[1]:
            raise ValueError(
                f"keep: expected {self.audio.shape[1]} samples as the song has, found {length}"
            )


def _check_prompts(task: str, prompts: Sequence[Prompt]) -> None:
    """A source is always asked for; music or an accompaniment may be left to the model."""
    if not prompts:
        raise ValueError(f"{task}: expected one prompt or more, found none")
    if TASKS[task].several:
        for prompt in prompts:
            check_prompt(prompt)
    elif len(prompts) > 1:
        raise ValueError(f"{task}: expected one prompt, found {len(prompts)}")
