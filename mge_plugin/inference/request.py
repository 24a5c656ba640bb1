"""What a user requests and what comes back, as plain dataclasses; importable without torch.

Every option is declared here once, with its default, bounds and help text; the command line, the
web interface and the tables in docs are derived from these declarations. `Request` checks
everything that can be known without the model.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mge_plugin.config import ConfigError, check_options, option, parse_section
from mge_plugin.data.audio import flac_problem, read_audio, write_flac, write_wav
from mge_plugin.files import output_name, write_file
from mge_plugin.prompts import TrackPrompts, plain_prompt, track_prompts
from mge_plugin.tracks import TASKS, Task, Track

if TYPE_CHECKING:
    from torch import Tensor

_REFINEMENTS = ("auto", "mask", "none")
_LONG_FORMS = ("joint", "sequential")
SCHEDULES = ("linear", "log-snr")
_CHOICES = ("best", "mean")
OUR_SAMPLERS = ("dpm-solver++", "ddim", "heun", "repaint")
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
_SAMPLERS = (*OUR_SAMPLERS, *SAT_SAMPLERS["v"], *SAT_SAMPLERS["rectified_flow"])
_MAX_SEED = 2**63 - 1  # the largest that torch's generators take on every device
_MAX_SECONDS = 4 * 3600.0
_MAX_PROMPTS = 64
_MAX_CHANNELS = 64

Callback: TypeAlias = Callable[[Mapping[str, Any]], None]


class Cancelled(Exception):
    """Raised by a callback to stop a run; nothing is returned and nothing is written."""


@dataclass(frozen=True)
class Sampling:
    """How to sample; a model may ship its own defaults (key `sampling` of its config)."""

    steps: int = option(20, "Sampling steps.", group="Sampling", low=1, high=10_000)
    cfg_scale: float | tuple[float, ...] = option(
        2.0,
        "Guidance scale, 1 is none; or one for each of mixture, submixture and source.",
        group="Guidance",
        low=-100,
        high=100,
    )
    seed: int = option(
        0, "The same seed gives the same result.", group="Sampling", low=0, high=_MAX_SEED
    )
    window_batch: int = option(
        4,
        "Windows in one call of the network: fewer need less memory.",
        group="Machine",
        low=1,
        high=4096,
    )
    sampler: str = option(
        "dpm-solver++",
        f"{', '.join(OUR_SAMPLERS)}; stable-audio-tools' {', '.join(SAT_SAMPLERS['v'])}; for "
        f"rectified flow {', '.join(SAT_SAMPLERS['rectified_flow'])}.",
        group="Sampling",
        choices=_SAMPLERS,
    )
    schedule: str = option(
        "linear",
        "Noise levels, evenly spaced in t or in log-SNR; stable-audio-tools' samplers have "
        "their own.",
        group="Sampling",
        choices=SCHEDULES,
    )
    eta: float = option(
        0.0, "For ddim: share of new noise in each step.", group="Sampling", low=0, high=1
    )
    resamplings: int = option(
        1, "For repaint: passes over each step.", group="Sampling", low=1, high=100
    )
    cfg_interval: tuple[float, float] = option(
        (0.0, 1.0),
        "Lowest and highest noise share at which guidance acts.",
        group="Guidance",
        low=0,
        high=1,
    )
    cfg_rescale: float = option(
        0.0,
        "Share of the guided prediction that is rescaled to the prompted one's deviation.",
        group="Guidance",
        low=0,
        high=1,
    )
    apg_scale: float = option(
        0.0,
        "Share of guidance that is orthogonal to the denoised latents (APG).",
        group="Guidance",
        low=0,
        high=1,
    )
    long_form: str = option(
        "joint",
        "Windows of a long song: all together, or one after another (outpainting).",
        group="Sampling",
        choices=_LONG_FORMS,
    )
    candidates: int = option(
        1, "Results sampled from different seeds.", group="Sampling", low=1, high=64
    )
    choose: str = option(
        "best",
        "Of several candidates: the one with the best score, or the mean of their latents.",
        group="Sampling",
        choices=_CHOICES,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if isinstance(self.cfg_scale, tuple) and len(self.cfg_scale) != len(Track):
            raise ConfigError(
                "cfg_scale: expected one number or those of mixture, submixture and source, "
                f"found {len(self.cfg_scale)}"
            )
        if len(self.cfg_interval) != 2 or self.cfg_interval[0] > self.cfg_interval[1]:
            raise ConfigError(
                f"cfg_interval: expected two rising shares from 0 to 1, found {self.cfg_interval}"
            )
        self._check_use()

    def _check_use(self) -> None:
        """Refuse an option that the sampler would ignore."""
        ignored = {
            "eta": ("ddim", self.eta != 0 and self.sampler != "ddim"),
            "resamplings": ("repaint", self.resamplings != 1 and self.sampler != "repaint"),
            "schedule": (
                ", ".join(OUR_SAMPLERS),
                self.schedule != "linear" and self.sampler not in OUR_SAMPLERS,
            ),
        }
        problems = [
            f"{name}: is for {samplers}, found sampler {self.sampler!r}"
            for name, (samplers, is_ignored) in ignored.items()
            if is_ignored
        ]
        if problems:
            raise ConfigError(*problems)

    @classmethod
    def paper(cls, **changes: Any) -> "Sampling":
        """The paper's (section E.3): 250 DDIM steps, guidance 2."""
        defaults: dict[str, Any] = {"steps": 250, "sampler": "ddim"}
        return cls(**defaults | changes)

    @classmethod
    def of_model(cls, model_config: Mapping[str, Any]) -> "Sampling":
        """The defaults that a model ships, in the section `sampling` of its config."""
        return parse_section(cls, model_config.get("sampling"), "sampling")


@dataclass(frozen=True)
class Finish:
    """How sampled tracks become audio."""

    refine: str = option(
        "auto",
        "mask: filter the source from the song itself; none: what the model made; auto: mask if "
        "the song has a higher rate or more channels than the model.",
        group="Extraction",
        choices=_REFINEMENTS,
    )
    gate: bool = option(
        True, "Silence an extracted source that is not in the song.", group="Extraction"
    )
    gate_threshold: float = option(
        0.1,
        "Presence below which a source counts as not in the song.",
        group="Extraction",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def masks(self, sample_rate: int, channels: int, model: tuple[int, int]) -> bool:
        """Whether to filter the song: "auto" does if it exceeds the model's (rate, channels)."""
        if self.refine == "auto":
            return sample_rate > model[0] or channels > model[1]
        return self.refine == "mask"


@dataclass(frozen=True)
class Audio:
    """Sound of any rate and number of channels, and the name of the song if it has one."""

    samples: np.ndarray  # (channels, samples) float32
    sample_rate: int  # Hz
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", _samples(self.samples))
        rate = self.sample_rate
        if isinstance(rate, bool) or not (_is_number(rate) and rate == int(rate) and rate >= 1):
            raise ValueError(f"sample_rate: expected a whole number of Hz from 1 up, found {rate}")
        object.__setattr__(self, "sample_rate", int(rate))

    @classmethod
    def of(cls, source: "AudioLike") -> "Audio":
        """From a path, a file object, or (samples, sample rate); an Audio is returned as it is."""
        if isinstance(source, Audio):
            return source
        if isinstance(source, (str, Path)):
            path = Path(source)
            return cls(*read_audio(path), path.stem)
        if isinstance(source, (tuple, list)) and len(source) in (2, 3):
            return cls(*source)
        if hasattr(source, "read"):
            return cls(*_read_file(source))
        raise TypeError(
            "audio: expected a path, a file object, or a pair of samples (channels, samples) and "
            f"a sample rate, found {type(source).__name__}"
        )

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.samples.shape[1] / self.sample_rate


AudioLike: TypeAlias = Audio | str | Path | IO[bytes] | tuple[Any, int]


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _samples(samples: Any) -> np.ndarray:
    """Arrays and tensors of floats as float32 (channels, samples); one axis is one channel."""
    if hasattr(samples, "detach"):  # a tensor
        samples = samples.detach().cpu().float()
    samples = np.asarray(samples)
    if samples.dtype.kind != "f":
        raise ValueError(f"audio: expected float samples from -1 to 1, found {samples.dtype}")
    samples = samples[None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or not samples.size:
        raise ValueError(f"audio: expected (channels, samples), found shape {samples.shape}")
    channels, length = samples.shape
    if channels > _MAX_CHANNELS or channels > length > 2:
        raise ValueError(
            f"audio: expected (channels, samples), found {channels} channels of {length} samples: "
            "is the array transposed?"
        )
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("audio: has NaN or infinite samples")
    return samples


def _read_file(file: Any) -> tuple[np.ndarray, int]:
    import soundfile as sf

    try:
        samples, rate = sf.read(file, dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise ValueError(f"audio: a file object that is not readable ({error})") from error
    return samples.T, rate


@dataclass(frozen=True)
class Keep:
    """A track that exists already, of which only some seconds are generated again."""

    audio: Any  # what `Audio.of` takes; then an Audio
    redo: tuple[tuple[float, float], ...]  # spans in seconds, each a start and an end

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio", Audio.of(self.audio))
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
    """Audio of the prompted track to start from in place of noise: the result is a variation."""

    audio: Any  # what `Audio.of` takes; then an Audio
    level: float  # t, over 0 (the audio as it is) up to 1 (noise alone)

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio", Audio.of(self.audio))
        if not 0 < self.level <= 1:
            raise ValueError(f"init: expected a level over 0 and up to 1, found {self.level}")


@dataclass(frozen=True)
class Request:
    """One task on one song, or on none.

    `prompts` is one prompt or a sequence of them, as `mge_plugin.prompts` describes, and audio is
    anything that `Audio.of` takes. They are converted once, here: then `prompts` is a tuple of
    TrackPrompts, `negative` and `new_prompt` are TrackPrompts, and `audio` is an Audio.
    """

    task: str  # a name in TASKS
    prompts: Any = ()
    audio: Any = None  # the given track
    seconds: float | None = None  # length if there is no audio; None is one window
    seed: int | None = None  # None is the sampling's
    negative: Any = None  # negative prompt
    keep: Keep | None = None  # of the prompted track
    init: Init | None = None  # of the prompted track
    new_prompt: Any = None  # for replace: the new source
    sampling: Sampling | None = None  # None is the model's own
    finish: Finish = field(default_factory=Finish)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, found {self.task!r}")
        self._set("prompts", _several(self.prompts, self.info))
        self._set("negative", track_prompts(self.negative, self.info.prompted))
        new = None if self.new_prompt is None else track_prompts(self.new_prompt, Track.SOURCE)
        self._set("new_prompt", new)
        if self.audio is not None:
            self._set("audio", Audio.of(self.audio))
        check_seconds(self.seconds)
        if self.seed is not None:
            self._set("seed", Sampling(seed=self.seed).seed)
        self._check_prompts()
        self._check_audio()
        self._check_parts()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def info(self) -> Task:
        """The task's row in TASKS."""
        return TASKS[self.task]

    @property
    def like(self) -> Audio | None:
        """The audio whose rate, channels and length the result has; None is the model's."""
        if self.audio is not None:
            return self.audio
        if self.keep is not None:
            return self.keep.audio
        return self.init.audio if self.init is not None and self.seconds is None else None

    def _check_prompts(self) -> None:
        if not 1 <= len(self.prompts) <= (_MAX_PROMPTS if self.info.several else 1):
            number = f"1 to {_MAX_PROMPTS} prompts" if self.info.several else "one prompt"
            raise ValueError(f"{self.task}: expected {number}, found {len(self.prompts)}")
        needed = self.prompts if self.info.needs_prompt else ()
        if self.info.new_prompt:
            needed = (*needed, self.new_prompt or {})
        elif self.new_prompt is not None:
            raise ValueError(f"{self.task}: takes no new_prompt")
        for prompt in needed:
            if self.info.prompted not in prompt:
                label = self.info.prompted.label
                raise ValueError(
                    f"prompt: {self.task} needs a text such as 'the sound of the bass', or an "
                    f"example, for the {label}; found none"
                )

    def _check_audio(self) -> None:
        given = self.info.given
        if given is not None and self.audio is None:
            raise ValueError(f"{self.task}: needs the {given.label}'s audio, found none")
        if given is None and self.audio is not None:
            raise ValueError(f"{self.task}: takes no audio")
        if self.seconds is not None and not self.info.has_length:
            raise ValueError(f"{self.task}: the audio sets the length, found seconds")

    def _check_parts(self) -> None:
        """Keep and init are for one track, and a kept track fits its song."""
        for name in ("keep", "init"):
            if getattr(self, name) is None:
                continue
            if len(self.prompts) > 1 or self.info.new_prompt:
                raise ValueError(f"{name}: is for one generated track, {self.task} makes several")
        if self.keep is None:
            return
        if self.task == "compose":
            raise ValueError("keep: compose makes several tracks; extract, add or accompany one")
        form = (self.keep.audio.samples.shape[1], self.keep.audio.sample_rate)
        song = self.audio and (self.audio.samples.shape[1], self.audio.sample_rate)
        if song and song != form:
            raise ValueError(
                f"keep: expected {song[0]} samples at {song[1]} Hz as the song has, "
                f"found {form[0]} at {form[1]} Hz"
            )


def _several(prompts: Any, task: Task) -> tuple[TrackPrompts, ...]:
    """One prompt or a sequence of them, converted."""
    if not isinstance(prompts, (list, tuple)):
        prompts = (prompts,)
    if not prompts and not task.needs_prompt:
        prompts = (None,)
    return tuple(track_prompts(prompt, task.prompted) for prompt in prompts)


def check_seconds(seconds: float | None) -> None:
    """A length is a number of seconds above 0, or None for one window of the model."""
    if seconds is not None and not (_is_number(seconds) and 0 < seconds <= _MAX_SECONDS):
        raise ValueError(
            f"seconds: expected a number above 0 and up to {_MAX_SECONDS:g}, found {seconds}"
        )


@dataclass(frozen=True)
class Result:
    """Audio (channels, samples) by name, latents (k, c, n) by name, and how they were made.

    `info` is plain data: task, seed, sampling, and under `tracks` the prompt, level and scores of
    every track in `audio`.
    """

    audio: dict[str, np.ndarray]
    sample_rate: int
    info: dict[str, Any] = field(default_factory=dict)
    latents: "dict[str, Tensor]" = field(default_factory=dict)
    name: str = ""  # of the song

    def save(
        self,
        folder: Path | str,
        name: str | None = None,
        audio_format: str = "wav",
        info: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Write {name}_{track}.wav for every track, and {name}.json last; the files' paths.

        `name` is the song's, or the task's if there is no song. Each file is written whole or not
        at all. `info` goes into the JSON too. If FLAC cannot hold a track as it is, all tracks
        become WAV files.
        """
        name = output_name(name or self.name or self.info.get("task", "result"))
        record = Path(folder) / f"{name}.json"
        record.unlink(missing_ok=True)  # it would describe the new tracks wrongly
        as_flac = audio_format == "flac" and not self.flac_problem()
        write, suffix = (write_flac, "flac") if as_flac else (write_wav, "wav")
        files = {track: f"{name}_{output_name(track)}.{suffix}" for track in self.audio}
        for track, audio in self.audio.items():
            write(record.with_name(files[track]), audio, self.sample_rate)
        text = json.dumps({**(info or {}), "files": files, **self.info}, indent=4, allow_nan=False)
        write_file(record, text.encode())
        return [record.with_name(file) for file in files.values()]

    def flac_problem(self) -> str | None:
        """Why FLAC cannot hold the tracks as they are; None if it can."""
        for name, audio in self.audio.items():
            if problem := flac_problem(audio, self.sample_rate):
                return f"{name}: {problem}"
        return None


def parts(audio: Mapping[str, np.ndarray], task: str) -> dict[str, np.ndarray]:
    """The tracks of a result that sum to its mixture; a given track is the mixture's rest."""
    found = {name: track for name, track in audio.items() if name not in ("mixture", "removed")}
    if not found:
        return dict(audio)
    given = TASKS[task].given
    if given is not None and given is not Track.MIXTURE:
        found[given.label] = audio["mixture"] - sum(found.values())
    return found


def remix(result: Result, gains: Mapping[str, float]) -> np.ndarray:
    """The mixture of a result with gains in dB by track; a track not named keeps its level.

    -inf leaves a track out. Tracks are those of `parts`: of an extraction all sources and the
    residual, of `add` the new sources and the given submixture, and so on.
    """
    tracks = parts(result.audio, result.info.get("task", "extract"))
    if unknown := sorted(set(gains) - set(tracks)):
        raise ValueError(f"gains: expected tracks of {sorted(tracks)}, found {unknown}")
    mixture = np.zeros_like(next(iter(tracks.values())))
    for name, audio in tracks.items():
        mixture += np.float32(10 ** (gains.get(name, 0.0) / 20)) * audio
    return mixture


def describe(request: Request, sampling: Sampling, seed: int) -> dict[str, Any]:
    """How a request was carried out, as plain data."""
    info = {
        "task": request.task,
        "seed": seed,
        "negative": plain_prompt(request.negative or {}, request.info.prompted),
        "sampling": asdict(sampling) | asdict(request.finish),
    }
    if request.keep is not None:
        info["redo"] = [list(span) for span in request.keep.redo]
    return info
