"""From song files and texts to tracks of audio: the Python API under the CLI and the UI.

    audio -> model's rate and channels -> windows -> latents -> sampler -> audio -> input's rate
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import fit_length, resample, rms_db, to_channels
from mge_plugin.inference.ddim import Callback, sample_ddim
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.inference.tasks import TASKS, Task
from mge_plugin.inference.windows import Windows
from mge_plugin.models.checkpoints import load_weights
from mge_plugin.models.given import Given
from mge_plugin.models.latents import decode_tracks, encode_tracks
from mge_plugin.models.mge import MGEModel, create_mge_model
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model
from mge_plugin.tracks import NUM_TRACKS, Track, pack, unpack


@dataclass(frozen=True)
class Sampling:
    """How to sample; the defaults are the paper's (section E.3)."""

    steps: int = 250
    cfg_scale: float = 2.0
    seed: int = 0
    window_batch: int = 4  # windows denoised together: bounds memory

    def __post_init__(self) -> None:
        if self.steps < 1 or self.window_batch < 1:
            raise ValueError(
                "steps and window_batch must be 1 or more, "
                f"found {self.steps} and {self.window_batch}"
            )


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
        samples = self.frames * self.ratio if seconds is None else seconds * self.sample_rate
        windows = len(Windows.cover(-int(-samples // self.ratio), self.frames).starts)
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
        samples = self.frames * self.ratio
        if seconds is not None:
            samples = round(seconds * self.sample_rate)
        if samples < 1:
            raise ValueError(f"seconds: expected more than 0, found {seconds}")
        tracks = self._sample(TASKS["generate"], prompt, None, samples, sampling, callback)
        audio = {"mixture": tracks[Track.MIXTURE].numpy()}
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

        Both have the mixture's rate, channels and length; source + residual is the mixture. Where the
        mixture is silent for a whole window, so is the source.
        """
        sampling = sampling or Sampling()
        _check_input(audio)
        mixture = resample(to_channels(audio, self.channels), sample_rate, self.sample_rate)
        given = torch.from_numpy(mixture)
        tracks = self._sample(
            TASKS["extract"], prompt, given, mixture.shape[1], sampling, callback
        )
        source = resample(tracks[Track.SOURCE].numpy(), self.sample_rate, sample_rate)
        source = to_channels(fit_length(source, audio.shape[1]), audio.shape[0])
        made = {"source": source, "residual": audio - source}
        return Result(made, sample_rate, _info("extract", prompt, sampling, made))

    @torch.no_grad()
    def _sample(
        self,
        task: Task,
        prompt: str | None,
        given: Tensor | None,
        samples: int,
        sampling: Sampling,
        callback: Callback | None,
    ) -> Tensor:
        """All tracks of one task as audio (track, channel, samples) at the model's rate.

        `given` (channel, samples) is the audio of the task's given track.
        """
        windows = Windows.cover(-(-samples // self.ratio), self.frames)
        noise = windows.cut(self._noise(windows.padded_length, sampling.seed))
        pieces = torch.zeros(len(noise), NUM_TRACKS, self.channels, self.frames * self.ratio)
        active = list(range(len(noise)))
        if given is not None:
            padding = windows.padded_length * self.ratio - samples
            given = windows.cut(torch.nn.functional.pad(given, (0, padding)), self.ratio)
            active = [i for i in active if given[i].any()]  # silence stays silence
        embeddings = self._embed(task, prompt)
        for first in range(0, len(active), sampling.window_batch):
            chosen = active[first : first + sampling.window_batch]
            known = None if given is None else self._give(task, given[chosen])
            latents = self._denoise(noise[chosen], embeddings, known, sampling, callback)
            pieces[chosen] = decode_tracks(self.model.pretransform, latents).cpu()
        return windows.join(pieces, self.ratio)[..., :samples]

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
        metadata = [{key: {task.prompted.label: prompt} for key in self.model.global_cond_ids}]
        conditioning = self.model.conditioner(metadata, self.device)
        return self.model.get_conditioning_inputs(conditioning)["global_cond"]

    def _give(self, task: Task, audio: Tensor) -> Given:
        latents = encode_tracks(self.model.pretransform, audio[:, None].to(self.device))[:, 0]
        return Given.track(task.given, latents)

    def _denoise(
        self,
        noise: Tensor,
        embeddings: Tensor,
        given: Given | None,
        sampling: Sampling,
        callback: Callback | None,
    ) -> Tensor:
        """Latents (b, k, c, n) of a batch of windows."""
        network = self.model.model
        modulations = network.modulate(embeddings.expand(len(noise), -1, -1))

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            v = network(
                pack(x), t, given=given, modulations=modulations, cfg_scale=sampling.cfg_scale
            )
            return unpack(v)

        schedule = linear_schedule(sampling.steps)
        latents = sample_ddim(denoiser, noise.to(self.device), schedule, callback)
        return latents if given is None else given.insert(latents)


def load(model_config: Path | str, ckpt: Path | str, device: str = "auto") -> Pipeline:
    """Open a model config and the checkpoint that belongs to it, ready for the tasks."""
    config = read_json(model_config)
    if not is_our_model(config):
        raise ConfigError(f"{model_config}: model.diffusion.type is not {DIFFUSION_TYPE!r}")
    model = create_mge_model(config)
    load_weights(model, ckpt)
    return Pipeline(model, config["sample_size"], config.get("audio_channels", 2), pick(device))


def pick(device: str) -> str:
    """`auto` becomes the GPU if there is one."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_input(audio: np.ndarray) -> None:
    if audio.ndim != 2 or not audio.size:
        raise ValueError(f"audio: expected (channels, samples), found shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise ValueError("audio: has NaN or infinite samples")


def _info(task: str, prompt: str | None, sampling: Sampling, audio: dict[str, Any]) -> dict:
    levels = {name: {"rms_db": _finite(rms_db(x))} for name, x in audio.items()}
    return {"task": task, "prompt": prompt, **asdict(sampling), "levels": levels}


def _finite(level: float) -> float | None:
    """JSON has no -inf: silence is null."""
    return round(level, 2) if np.isfinite(level) else None
