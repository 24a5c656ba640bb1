"""From song files and texts to tracks of audio: the Python API under the CLI and the UI.

audio -> model's rate and channels -> latents -> sampler -> audio -> input's rate

The tasks on songs: what is given is encoded, rounds of items are denoised, the best is kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.check import check_model
from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import fit_length, resample, to_channels
from mge_plugin.inference import presence
from mge_plugin.inference.denoiser import Engine, Item, Kept
from mge_plugin.inference.finish import Mastering
from mge_plugin.inference.request import (
    TASKS,
    Request,
    Result,
    Sampling,
    Task,
    by_track,
    together,
)
from mge_plugin.inference.sampling import Callback, Start, candidate_seed
from mge_plugin.inference.windows import Made, Song
from mge_plugin.models.checkpoints import load_weights
from mge_plugin.models.mge import MGEModel, create_mge_model
from mge_plugin.prompts import Prompt
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model
from mge_plugin.tracks import Track


class Studio:
    """Runs requests on an engine."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self.engine, self.channels = engine, channels
        self.sample_rate = engine.model.sample_rate
        self.mastering = Mastering(engine, channels)

    def run(
        self, requests: Sequence[Request], sampling: Sampling, callback: Callback | None
    ) -> list[Result]:
        """A result for each request; all of one task."""
        task = TASKS[requests[0].task]
        with self.engine.enough_memory(sampling):
            songs = [self._open(request, sampling) for request in requests]
            if requests[0].task in ("add", "compose"):
                self._in_order(task, songs, sampling, callback)
            else:
                prompts = [(song, prompt) for song in songs for prompt in song.request.prompts]
                self._make(task, prompts, sampling, callback)
            return [self.mastering.finish(song, sampling) for song in songs]

    def steps(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How often the callback will be called."""
        samples = [self._length(request) for request in requests]
        rounds = 1
        if requests[0].task in ("add", "compose"):
            rounds = max(len(request.prompts) for request in requests)
        return rounds * self.engine.steps(samples, sampling)

    def _length(self, request: Request) -> int:
        """Samples at the model's rate, one window if nothing says how many."""
        if request.like is not None:
            return -(-request.like.shape[1] * self.sample_rate // request.sample_rate)
        if request.seconds is None:
            return self.engine.frames * self.engine.ratio
        return max(1, round(request.seconds * self.sample_rate))

    def _open(self, request: Request, sampling: Sampling) -> Song:
        seed = sampling.seed if request.seed is None else request.seed
        song = Song(request, self._length(request), seed)
        if request.audio is not None:
            song.sum = self._heard(request.audio, request.sample_rate)
            song.given = self.engine.encode(song.sum)
            if TASKS[request.task].given is Track.MIXTURE:  # in silence there is nothing to find
                song.sounding = [bool(piece.any()) for piece in self.engine.by_window(song.sum)]
        return song

    def _heard(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Audio at the model's rate and channels."""
        return resample(to_channels(audio, self.channels), sample_rate, self.sample_rate)

    def _in_order(
        self, task: Task, songs: Sequence[Song], sampling: Sampling, callback: Callback | None
    ) -> None:
        """A source for each prompt, one after another, each given the sum so far."""
        for number in range(max(len(song.request.prompts) for song in songs)):
            current = [song for song in songs if number < len(song.request.prompts)]
            round_task = TASKS["add"] if number else task
            asked = [(song, song.request.prompts[number]) for song in current]
            self._make(round_task, asked, sampling, callback)
            for song in current:
                self._sum_up(song)

    def _sum_up(self, song: Song) -> None:
        """Take the last source into the sum, and encode that for the next prompt."""
        last = song.made[-1]
        if song.sum is None:  # the first of a composition is the sum itself
            song.sum, song.given = last.audio, last.latents[Track.SOURCE]
            return
        song.sum = song.sum + last.audio
        if len(song.made) < len(song.request.prompts):
            song.given = self.engine.encode(song.sum)

    def _make(
        self,
        task: Task,
        asked: Sequence[tuple[Song, Prompt]],
        sampling: Sampling,
        callback: Callback | None,
    ) -> None:
        """Denoise a track for each (song, prompt), several candidates each, and keep the best."""
        items = [
            self._item(task, song, prompt, candidate_seed(song.seed, candidate))
            for song, prompt in asked
            for candidate in range(sampling.candidates)
        ]
        latents = self.engine.denoise(task, items, sampling, callback)
        for i, (song, prompt) in enumerate(asked):
            first = i * sampling.candidates
            mine = latents[first : first + sampling.candidates]
            song.made.append(self._best(task, song, prompt, mine))

    def _item(self, task: Task, song: Song, prompt: Prompt, seed: int) -> Item:
        return Item(
            by_track(prompt, task),
            seed,
            self.engine.frames_of(song.samples),
            song.given,
            song.sounding,
            by_track(song.request.negative, task),
            self._kept(song),
            self._start(task, song),
        )

    def _kept(self, song: Song) -> Kept | None:
        """The frames that lie outside of every span that is made anew."""
        keep = song.request.keep
        if keep is None:
            return None
        heard = self._heard(keep.audio, song.request.sample_rate)
        latents = self.engine.encode(fit_length(heard, song.samples))
        per_second = self.sample_rate / self.engine.ratio
        frames = torch.ones(self.engine.frames_of(song.samples))
        for start, end in keep.redo:
            frames[int(start * per_second) : int(np.ceil(end * per_second))] = 0.0
        return Kept(latents, frames)

    def _start(self, task: Task, song: Song) -> Start | None:
        """The three tracks that a sound to begin from makes with what is given."""
        init = song.request.init
        if init is None or song.made:
            return None
        heard = self._heard(init.audio, song.request.sample_rate)
        tracks = together(task, fit_length(heard, song.samples), song.sum)
        latents = torch.stack([self.engine.encode(tracks[track]) for track in Track])
        return Start(latents, init.level)

    def _best(self, task: Task, song: Song, prompt: Prompt, candidates: Tensor) -> Made:
        """The candidate (k, c, n) with the highest score, its audio and all scores."""
        made = []
        for latents in candidates:
            audio = self.engine.decode(latents[task.prompted], song.samples)
            info = self._scores(task, song, prompt, latents, audio) if len(candidates) > 1 else {}
            made.append(Made(prompt, latents.cpu(), audio, info))
        best = max(range(len(made)), key=lambda i: made[i].info.get("score", 0.0))
        if len(made) > 1:
            made[best].info = {"candidates": [m.info for m in made], "chosen": best}
        return made[best]

    def _scores(
        self, task: Task, song: Song, prompt: Prompt, latents: Tensor, audio: np.ndarray
    ) -> dict[str, float]:
        """How well the tracks of a candidate agree, and the prompted one with its prompt."""
        tracks = {task.prompted: audio}
        for track in Track:
            if track is task.given:
                tracks[track] = song.sum
            elif track is not task.prompted:
                tracks[track] = self.engine.decode(latents[track], song.samples)
        parts = tracks[Track.SUBMIXTURE] + tracks[Track.SOURCE]
        agrees = presence.agreement(tracks[Track.MIXTURE], parts, self.sample_rate)
        similar = self.engine.similarity(task, prompt, audio)
        scores = {"agreement": agrees} | ({} if similar is None else {"similarity": similar})
        return {"score": sum(scores.values())} | scores


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Prompts = Prompt | Sequence[Prompt]


class Pipeline:
    """A model with the tasks on it.

    Audio is float32 (channels, samples) at any rate and of any length; what comes back has its
    rate, channels, length and level. A prompt is a text, an audio example or both, of the task's
    prompted track, or a mapping from tracks to them (see `mge_plugin.prompts`). `callback` is
    called with every step's i, t, sigma, x and denoised; what it raises stops the run.
    """

    def __init__(self, model: MGEModel, sample_size: int, channels: int, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.engine = Engine(self.model, sample_size, device)
        self.studio = Studio(self.engine, channels)
        self.channels = channels
        self.device = device

    @property
    def sample_rate(self) -> int:
        """The model's own, Hz."""
        return self.model.sample_rate

    def generate(
        self,
        prompt: Prompt = None,
        seconds: float | None = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A mixture from a text, `seconds` long (one window if not said)."""
        request = Request("generate", (prompt,), seconds=seconds, **options)
        return self.run([request], sampling, callback)[0]

    def extract(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompts,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """The source that each prompt names in a mixture, and the residual.

        Sources + residual are the mixture. Where the mixture is silent, so are they; a source that
        is not there is silent (`sampling.gate`). What the model makes becomes a mask on the mixture
        (`mge_plugin.inference.finish`) if the mixture has a higher rate or more channels than the
        model, or as `sampling.refine` says.
        """
        request = Request("extract", several(prompt), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def add(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompts,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A new source for each prompt, in order, to go with a submixture, and the new mixture."""
        request = Request("add", several(prompt), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def accompany(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompt = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """The rest of the band for a source: the submixture, and the mixture of both."""
        request = Request("accompany", (prompt,), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def compose(
        self,
        prompt: Prompts,
        seconds: float | None = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A song stem by stem: a source for each prompt, in order, and their mixture."""
        request = Request("compose", several(prompt), seconds=seconds, **options)
        return self.run([request], sampling, callback)[0]

    def replace(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompt,
        new_prompt: Prompt,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """Another instrument for one of a mixture: extract it, keep the residual, add the new."""
        taken = self.extract(audio, sample_rate, prompt, sampling, callback, **options)
        residual = taken.audio["residual"]
        added = self.add(residual, sample_rate, new_prompt, sampling, callback, **options)
        audio = added.audio | {"removed": taken.audio["source"], "residual": residual}
        info = {"task": "replace", "extract": taken.info, "add": added.info}
        info["tracks"] = added.info["tracks"] | {
            "removed": taken.info["tracks"]["source"],
            "residual": taken.info["tracks"]["residual"],
        }
        return Result(audio, sample_rate, info, added.latents)

    def run(
        self,
        requests: Sequence[Request],
        sampling: Sampling | None = None,
        callback: Callback | None = None,
    ) -> list[Result]:
        """Several requests of one task, denoised in the same batches; a result for each."""
        if not requests:
            return []
        tasks = sorted({request.task for request in requests})
        if len(tasks) > 1:
            raise ValueError(f"requests: expected one task, found {', '.join(tasks)}")
        return self.studio.run(requests, sampling or Sampling(), callback)

    def steps(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How often the callback will be called, for a progress bar."""
        return self.studio.steps(requests, sampling)


def several(prompt: Prompts) -> tuple[Prompt, ...]:
    """One prompt or a list of them as a tuple."""
    return tuple(prompt) if isinstance(prompt, list | tuple) else (prompt,)


def remix(result: Result, gains: dict[str, float]) -> np.ndarray:
    """The tracks of an extraction summed with gains in dB; a track not named keeps its level.

    -inf leaves a track out. All at 0 dB are the mixture.
    """
    if unknown := sorted(set(gains) - set(result.audio)):
        raise ValueError(f"gains: expected tracks of {sorted(result.audio)}, found {unknown}")
    factors = {name: 10 ** (gains.get(name, 0.0) / 20) for name in result.audio}
    return sum(np.float32(factors[name]) * audio for name, audio in result.audio.items())


def load(
    model_config: Path | str,
    ckpt: Path | str,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool = False,
) -> Pipeline:
    """Open a model config and the checkpoint that belongs to it, ready for the tasks.

    `dtype` is the network's: float32, bfloat16, float16, or auto, which is bfloat16 on a GPU; the
    autoencoder stays float32. `compiled` compiles the network when it is first used, on a GPU into
    CUDA graphs: worth it for more than one song.
    """
    config = read_json(model_config)
    if not is_our_model(config):
        raise ConfigError(
            f"{model_config}: not a three-track model, whose model.diffusion.type is "
            f"{DIFFUSION_TYPE!r}"
        )
    if problems := check_model(config):
        raise ConfigError(*(f"{model_config}: {problem}" for problem in problems))
    device = pick(device)
    precision = pick_dtype(dtype, device)
    model = create_mge_model(config)
    load_weights(model, ckpt)
    pipeline = Pipeline(model, config["sample_size"], config.get("audio_channels", 2), device)
    pipeline.model.model.to(precision)
    if compiled:
        mode = "reduce-overhead" if device.startswith("cuda") else None
        pipeline.model.model.model.compile(mode=mode, dynamic=False)
    return pipeline


def pick(device: str) -> str:
    """A device that this machine has; `auto` is the GPU if there is one."""
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device != "auto" and device not in present:
        raise ValueError(f"device: expected auto or one of {', '.join(present)}, found {device!r}")
    return present[0] if device == "auto" else device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The network's precision on a device."""
    if dtype == "auto":
        half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if half else "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected auto or one of {', '.join(DTYPES)}, found {dtype!r}")
    return DTYPES[dtype]
