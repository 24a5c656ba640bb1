"""A request while it is carried out: its song in the model's form, and the result in the song's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length, loudness_db, resample, rms_db, to_channels
from mge_plugin.inference.request import Audio, Keep, Request, Result, Sampling, describe
from mge_plugin.inference.windows import Windows
from mge_plugin.prompts import TrackPrompts, plain_prompt
from mge_plugin.tracks import Task, Track


@dataclass(frozen=True)
class ModelForm:
    """The audio that a model takes, and the windows in which it takes it."""

    sample_rate: int
    channels: int
    ratio: int  # samples per latent frame
    frames: int  # of a window
    level: float | None  # dBFS of the audio in training; None: levels are kept

    def latent_frames(self, samples: int) -> int:
        """Of so many samples."""
        return -(-samples // self.ratio)

    def windows(self, samples: int) -> Windows:
        """Those of a song of so many samples."""
        return Windows.cover(self.latent_frames(samples), self.frames)

    def by_window(self, audio: np.ndarray) -> Tensor:
        """(channels, samples) to (window, channels, samples), the last padded with silence."""
        windows = self.windows(audio.shape[1])
        padded = fit_length(audio, windows.padded_length * self.ratio)
        return windows.cut(torch.from_numpy(padded), self.ratio)

    def length(self, request: Request) -> int:
        """Samples that a request needs; one window if nothing sets the length."""
        like = request.like
        if like is not None:
            return -(-like.samples.shape[1] * self.sample_rate // like.sample_rate)
        if request.seconds is None:
            return self.frames * self.ratio
        return max(1, round(request.seconds * self.sample_rate))

    def gain(self, request: Request) -> float:
        """Factor that brings the request's audio to the level that the model is trained on."""
        if self.level is None or request.like is None:
            return 1.0
        samples = to_channels(request.like.samples, self.channels)
        level = loudness_db(samples, request.like.sample_rate)
        return 10 ** ((self.level - level) / 20) if np.isfinite(level) else 1.0

    def masks(self, request: Request) -> bool:
        """Whether the request's sources become masks on its song."""
        audio = request.audio
        return request.info.given is Track.MIXTURE and request.finish.masks(
            audio.sample_rate, len(audio.samples), (self.sample_rate, self.channels)
        )


@dataclass
class SampledTrack:
    """What was sampled for one prompt."""

    prompt: TrackPrompts
    latents: Tensor  # (k, c, n) of all tracks
    audio: np.ndarray  # (channels, samples) of the prompted track, in the model's form
    info: dict[str, Any] = field(default_factory=dict)  # scores


class Song:
    """A request, the model's form, and what is encoded and sampled so far.

    `total` is audio (channels, samples) in the model's form, given and sampled together, and
    `given` its latents (c, n). `keep` is latents (c, n) of the kept track and the frames to keep;
    `init` latents (k, c, n) to start from and their level; `sounding` which windows are sampled.
    """

    def __init__(self, request: Request, sampling: Sampling, seed: int, form: ModelForm) -> None:
        self.request, self.sampling, self.seed, self.form = request, sampling, seed, form
        self.samples = form.length(request)
        self.gain = form.gain(request)
        self.total = None if request.audio is None else self.at_model(request.audio)
        self.given: Tensor | None = None
        self.keep: tuple[Tensor, Tensor] | None = None
        self.init: tuple[Tensor, float] | None = None
        self.tracks: list[SampledTrack] = []
        count = len(form.windows(self.samples).starts)
        self.sounding: Sequence[bool] = [True] * count
        if self.total is not None and request.info.given is Track.MIXTURE:
            # Silence has no sources.
            self.sounding = [bool(piece.any()) for piece in form.by_window(self.total)]

    def at_model(self, audio: Audio) -> np.ndarray:
        """Audio in the model's form: its rate, channels and level."""
        form = self.form
        samples = to_channels(audio.samples, form.channels)
        return np.float32(self.gain) * resample(samples, audio.sample_rate, form.sample_rate)

    def in_form(self, audio: np.ndarray) -> np.ndarray:
        """With the rate, channels, length and level of the request's audio, if it has any."""
        like = self.request.like
        if like is None:
            return audio
        audio = resample(audio, self.form.sample_rate, like.sample_rate) / np.float32(self.gain)
        return to_channels(fit_length(audio, like.samples.shape[1]), len(like.samples))

    def frames_to_keep(self, keep: Keep) -> Tensor:
        """1 for the frames outside every span that is generated again; (n,)."""
        per_second = self.form.sample_rate / self.form.ratio
        frames = torch.ones(self.form.latent_frames(self.samples))
        for start, end in keep.redo:
            frames[int(start * per_second) : int(np.ceil(end * per_second))] = 0.0
        return frames

    def result(self, audio: dict[str, np.ndarray]) -> Result:
        """The tracks by name, sampled ones first, with what is to be said about them."""
        request, like = self.request, self.request.like
        info = describe(request, self.sampling, self.seed)
        info["input_gain_db"] = 20 * float(np.log10(self.gain))  # latents are at the model's level
        info["tracks"] = {name: _levels(track) for name, track in audio.items()}
        latents = {}
        for name, track in zip(audio, self.tracks, strict=False):
            prompt = {"prompt": plain_prompt(track.prompt, request.info.prompted)}
            info["tracks"][name] = prompt | info["tracks"][name] | track.info
            latents[name] = track.latents[..., : self.form.latent_frames(self.samples)]
        name = request.audio.name if request.audio is not None else ""
        rate = self.form.sample_rate if like is None else like.sample_rate
        return Result(audio, rate, info, latents, name)


def all_tracks(
    task: Task, prompted: np.ndarray, given: np.ndarray | None
) -> dict[Track, np.ndarray]:
    """All tracks (channels, samples), from the prompted and the given one: m = u + s.

    If nothing is given, the prompted track is the mixture, and also the whole of one of its parts.
    """
    if task.given is Track.MIXTURE:
        return {Track.MIXTURE: given, Track.SUBMIXTURE: given - prompted, Track.SOURCE: prompted}
    if task.given is not None:
        return {Track.MIXTURE: given + prompted, task.given: given, task.prompted: prompted}
    rest = Track.SUBMIXTURE if task.prompted is Track.SOURCE else Track.SOURCE
    whole = Track.SOURCE if rest is Track.SUBMIXTURE else Track.SUBMIXTURE
    return {Track.MIXTURE: prompted, whole: prompted, rest: np.zeros_like(prompted)}


def replaced(taken: Result, added: Result) -> Result:
    """The result of replace from those of extract and add."""
    (removed,) = taken.latents
    extra = {"removed": taken.audio[removed], "residual": taken.audio["residual"]}
    tracks = taken.info["tracks"]
    info = {"task": "replace", "extract": taken.info, "add": added.info}
    info["seconds"] = added.info["seconds"]
    info["tracks"] = added.info["tracks"] | {
        "removed": tracks[removed],
        "residual": tracks["residual"],
    }
    return Result(added.audio | extra, added.sample_rate, info, added.latents, taken.name)


def _levels(audio: np.ndarray) -> dict[str, float | None]:
    """RMS and peak in dBFS; JSON has no -inf: silence is null."""
    peak = max(float(audio.max()), -float(audio.min()))
    return {"rms_db": _rounded(rms_db(audio)), "peak_db": _rounded(20 * np.log10(peak or 1e-300))}


def _rounded(level: float) -> float | None:
    return round(float(level), 2) if level > -1000 else None
