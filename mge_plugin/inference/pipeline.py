"""From song files and texts to tracks of audio: the Python API under the CLI and the UI.

audio -> model's rate and channels -> windows -> latents -> sampler -> audio -> input's rate
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.check import check_model
from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import fit_length, resample, rms_db, to_channels
from mge_plugin.inference.ddim import Callback
from mge_plugin.inference.denoise import denoise_tracks
from mge_plugin.inference.refine import refine
from mge_plugin.inference.request import Sampling, check_prompt, check_seconds, refines
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.inference.tasks import TASKS, Task
from mge_plugin.inference.windows import Windows
from mge_plugin.models.checkpoints import load_weights
from mge_plugin.models.given import Given
from mge_plugin.models.latents import decode_tracks, encode_tracks
from mge_plugin.models.mge import MGEModel, create_mge_model
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model
from mge_plugin.tracks import NUM_TRACKS

__all__ = ["Pipeline", "Result", "Sampling", "load", "pick"]


@dataclass(frozen=True)
class Result:
    """What a task made: audio (channels, samples) by name, and how it was made."""

    audio: dict[str, np.ndarray]
    sample_rate: int
    info: dict[str, Any] = field(default_factory=dict)


class Pipeline:
    """A model with the tasks on it."""

    def __init__(self, model: MGEModel, sample_size: int, channels: int, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.ratio = model.pretransform.downsampling_ratio  # samples a latent frame
        self.frames = sample_size // self.ratio  # of a window
        self.channels = channels
        self.device = device

    @property
    def sample_rate(self) -> int:
        """The model's own, Hz."""
        return self.model.sample_rate

    def calls(self, seconds: float | None, sampling: Sampling) -> int:
        """How often the network will be called for a song of that length, for a progress bar."""
        windows = len(self._windows(self._samples(seconds)).starts)
        return -(-windows // sampling.window_batch) * sampling.steps

    def generate(
        self,
        prompt: str | None = None,
        seconds: float | None = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """A mixture from a text, `seconds` long (one window if not said)."""
        sampling = sampling or Sampling()
        samples = self._samples(seconds)
        mixture = self._sample(TASKS["generate"], prompt, None, samples, sampling, callback)
        audio = {"mixture": mixture}
        return Result(audio, self.sample_rate, _info("generate", prompt, sampling, audio))

    def extract(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: str,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
    ) -> Result:
        """The source that `prompt` names in a mixture (channels, samples), and the residual.

        Both have the mixture's rate, channels and length; source + residual is the mixture. Where
        the mixture is silent for a whole window, so is the source. What the model makes becomes a
        mask on the mixture (`mge_plugin.inference.refine`) if the mixture has a higher rate or more
        channels than the model, or as `sampling.refine` says.
        """
        sampling = sampling or Sampling()
        check_prompt(prompt)
        _check_audio(audio)
        given = resample(to_channels(audio, self.channels), sample_rate, self.sample_rate)
        source = self._sample(TASKS["extract"], prompt, given, given.shape[1], sampling, callback)
        if refines(sampling, sample_rate, len(audio), (self.sample_rate, self.channels)):
            estimates = [source, given - source]
            source, _ = refine(audio, sample_rate, estimates, self.sample_rate)
        else:
            source = fit_length(resample(source, self.sample_rate, sample_rate), audio.shape[1])
            source = to_channels(source, audio.shape[0])
        made = {"source": source, "residual": audio - source}
        return Result(made, sample_rate, _info("extract", prompt, sampling, made))

    def _samples(self, seconds: float | None) -> int:
        """A length at the model's rate, one window if not said."""
        check_seconds(seconds)
        window = self.frames * self.ratio
        return window if seconds is None else max(1, round(seconds * self.sample_rate))

    def _windows(self, samples: int) -> Windows:
        return Windows.cover(-(-samples // self.ratio), self.frames)

    @torch.no_grad()
    def _sample(
        self,
        task: Task,
        prompt: str | None,
        given: np.ndarray | None,
        samples: int,
        sampling: Sampling,
        callback: Callback | None,
    ) -> np.ndarray:
        """The task's prompted track as audio (channel, samples) at the model's rate.

        `given` (channel, samples) is the audio of the task's given track.
        """
        windows = self._windows(samples)
        noise = windows.cut(self._noise(windows.padded_length, sampling.seed))
        pieces = torch.zeros(len(noise), self.channels, self.frames * self.ratio)
        active = list(range(len(noise)))
        if given is not None:
            given = fit_length(given, windows.padded_length * self.ratio)
            given = windows.cut(torch.from_numpy(given), self.ratio)
            active = [i for i in active if given[i].any()]  # silence stays silence
        embeddings = self._embed(task, prompt)
        for first in range(0, len(active), sampling.window_batch):
            chosen = active[first : first + sampling.window_batch]
            known = None if given is None else self._give(task, given[chosen])
            latents = denoise_tracks(
                self.model.model,
                noise[chosen].to(self.device),
                embeddings.expand(len(chosen), -1, -1),
                known,
                linear_schedule(sampling.steps),
                sampling.cfg_scale,
                callback,
            )
            prompted = latents[:, [task.prompted]]
            pieces[chosen] = decode_tracks(self.model.pretransform, prompted)[:, 0].cpu()
        return _finite(windows.join(pieces, self.ratio)[..., :samples].numpy())

    def _noise(self, frames: int, seed: int) -> Tensor:
        """Noise (k, c, frames) of the whole song, so that windows share it where they overlap.

        Drawn frame by frame on the CPU: the same on every device, and whatever the length.
        """
        generator = torch.Generator().manual_seed(seed)
        channels = self.model.io_channels // NUM_TRACKS
        noise = torch.randn(frames, NUM_TRACKS, channels, generator=generator)
        return noise.permute(1, 2, 0)

    def _embed(self, task: Task, prompt: str | None) -> Tensor:
        """(1, k, d) with the prompted track's embedding."""
        texts = {task.prompted.label: prompt}
        metadata = [dict.fromkeys(self.model.conditioner.conditioners, texts)]
        conditioning = self.model.conditioner(metadata, self.device)
        return self.model.embeddings(conditioning)

    def _give(self, task: Task, audio: Tensor) -> Given:
        latents = encode_tracks(self.model.pretransform, audio[:, None].to(self.device))[:, 0]
        return Given.track(task.given, latents)


def load(model_config: Path | str, ckpt: Path | str, device: str = "auto") -> Pipeline:
    """Open a model config and the checkpoint that belongs to it, ready for the tasks."""
    config = read_json(model_config)
    if not is_our_model(config):
        raise ConfigError(
            f"{model_config}: not a three-track model, whose model.diffusion.type is "
            f"{DIFFUSION_TYPE!r}"
        )
    if problems := check_model(config):
        raise ConfigError(*(f"{model_config}: {problem}" for problem in problems))
    device = pick(device)
    model = create_mge_model(config)
    load_weights(model, ckpt)
    return Pipeline(model, config["sample_size"], config.get("audio_channels", 2), device)


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


def _check_audio(audio: np.ndarray) -> None:
    if audio.ndim != 2 or not audio.size:
        raise ValueError(f"audio: expected (channels, samples), found shape {audio.shape}")
    if audio.dtype != np.float32:
        raise ValueError(f"audio: expected float32 samples, found {audio.dtype}")
    if not np.isfinite(audio).all():
        raise ValueError("audio: has NaN or infinite samples")


def _finite(audio: np.ndarray) -> np.ndarray:
    if not np.isfinite(audio).all():
        raise ValueError("the model made NaN or infinite samples: are its weights damaged?")
    return audio


def _info(
    task: str, prompt: str | None, sampling: Sampling, audio: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    levels = {name: {"rms_db": _rounded(rms_db(track))} for name, track in audio.items()}
    return {"task": task, "prompt": prompt, **asdict(sampling), "levels": levels}


def _rounded(level: float) -> float | None:
    """JSON has no -inf: silence is null."""
    return round(level, 2) if np.isfinite(level) else None
