"""The tasks: which track is given, which is prompted; and one task asked for on one song.

How a user asks for a run to be made, checked before anything slow is loaded.

What a task made, and how, as plain data.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mge_plugin.data.audio import rms_db
from mge_plugin.prompts import Prompt
from mge_plugin.tracks import Track

_MAX_SEED = 2**63 - 1  # the largest that torch's generators take on every device
REFINEMENTS = ("auto", "mask", "none")
LONG_FORMS = ("joint", "sequential")
SCHEDULES = ("linear", "log-snr")
OUR_SAMPLERS = ("ddim", "dpm-solver++", "heun", "repaint")
SAT_SAMPLERS = {  # stable-audio-tools' own, by diffusion objective
    "v": (
        "dpmpp-2m",
        "dpmpp-2m-sde",
        "dpmpp-3m-sde",
        "k-dpm-2",
        "k-dpm-adaptive",
        "k-dpm-fast",
        "k-dpmpp-2s-ancestral",
        "k-heun",
        "k-lms",
        "v-ddim",
        "v-ddim-cfgpp",
    ),
    "rectified_flow": ("euler", "rk4", "dpmpp", "pingpong"),
}


class Cancelled(Exception):
    """Raised by a callback to stop a run; nothing is returned and nothing written."""


@dataclass(frozen=True)
class Sampling:
    """How to sample; the defaults are the paper's (section E.3)."""

    steps: int = 250
    cfg_scale: float | tuple[float, ...] = 2.0  # or mixture's, submixture's and source's
    seed: int = 0
    window_batch: int = 4  # windows denoised together: bounds memory
    refine: str = "auto"  # "mask" filters the input, "none" gives what the model made
    sampler: str = "ddim"  # dpm-solver++, heun, repaint, or a name of stable-audio-tools'
    schedule: str = "linear"  # the paper's, or log-snr; SAT's samplers have their own
    eta: float = 0.0  # of ddim: share of the noise drawn anew in every step
    resamplings: int = 1  # of repaint: U
    cfg_interval: tuple[float, float] = (0.0, 1.0)  # shares of noise at which guidance acts
    cfg_rescale: float = 0.0  # share of guidance's result that keeps its deviation
    apg_scale: float = 0.0  # share of guidance that is orthogonal (APG)
    long_form: str = "joint"  # all windows of a song together, or "sequential": outpainting
    candidates: int = 1  # seeds tried at once; the best is kept
    gate: bool = True  # an extracted source that is not there becomes silence
    gate_threshold: float = 0.1  # presence, 0 to 1, under which it is not there

    def __post_init__(self) -> None:
        for name in ("steps", "window_batch", "resamplings", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        self._check_guidance()
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        for name in ("eta", "cfg_rescale", "apg_scale", "gate_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, found {getattr(self, name)}")
        check_seed(self.seed)

    def _check_guidance(self) -> None:
        scales = self.cfg_scale if isinstance(self.cfg_scale, tuple) else (self.cfg_scale,)
        if len(scales) not in (1, 3):
            raise ValueError(
                "cfg_scale: expected one number or those of mixture, submixture and source, "
                f"found {len(scales)}"
            )
        if not all(map(math.isfinite, scales)):
            raise ValueError(f"cfg_scale: expected a finite number, found {self.cfg_scale}")
        lowest, highest = self.cfg_interval
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"cfg_interval: expected two rising shares from 0 to 1, found {self.cfg_interval}"
            )

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


_CHOICES = {"refine": REFINEMENTS, "long_form": LONG_FORMS, "schedule": SCHEDULES}


def refines(sampling: Sampling, sample_rate: int, channels: int, model: tuple[int, int]) -> bool:
    """Whether to filter the input: "auto" does if it exceeds the model (its rate, channels)."""
    if sampling.refine == "auto":
        return sample_rate > model[0] or channels > model[1]
    return sampling.refine == "mask"


def check_prompt(prompt: Any) -> None:
    """A source can be made or extracted only if a text or an example says which."""
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        raise ValueError(
            f"prompt: expected words such as 'the sound of the bass', found {prompt!r}"
        )


def check_seconds(seconds: float | None) -> None:
    """A length is a number above 0, or None for the model's own."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, found {seconds}")


def check_seed(seed: int) -> None:
    """A seed is what torch's generators take."""
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed: expected 0 to {_MAX_SEED}, found {seed}")


def _check_audio(audio: np.ndarray, name: str = "audio") -> None:
    """Audio is float32 numbers, (channels, samples)."""
    if audio.ndim != 2 or not audio.size:
        raise ValueError(f"{name}: expected (channels, samples), found shape {audio.shape}")
    if audio.dtype != np.float32:
        raise ValueError(f"{name}: expected float32 samples, found {audio.dtype}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{name}: has NaN or infinite samples")


@dataclass(frozen=True)
class Result:
    """Audio (channels, samples) by name, the tracks' latents (c, n), and how they were made.

    `info` is plain data: task, seed, sampling, and of every track of `audio` its prompt, level and
    scores under `tracks`.
    """

    audio: dict[str, np.ndarray]
    sample_rate: int
    info: dict[str, Any] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)


def levels(audio: np.ndarray) -> dict[str, float | None]:
    """RMS and peak in dBFS; JSON has no -inf: silence is null."""
    peak = float(np.abs(audio).max()) if audio.size else 0.0
    return {"rms_db": _rounded(rms_db(audio)), "peak_db": _rounded(20 * np.log10(peak or 1e-300))}


def plain(prompt: Prompt | Any) -> Any:
    """A prompt as plain data: an audio example by its length."""
    if isinstance(prompt, Mapping):
        return {name: plain(value) for name, value in prompt.items()}
    if isinstance(prompt, Tensor):
        return f"audio, {prompt.shape[-1]} samples"
    return prompt


def _rounded(level: float) -> float | None:
    return round(float(level), 2) if level > -1000 else None


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
        _check_audio(self.audio, "keep")
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
        _check_audio(self.audio, "init")
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
            _check_audio(self.audio)
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
