"""Items of a batch to latents of their three tracks: prompts, seeds, windows, the sampler.

prompts -> embeddings -> modulations, once a run
given audio -> latents -.
noise by seed -----------> sampler over whole songs -> latents (b, k, c, n) -> audio
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length
from mge_plugin.inference.codec import Codec
from mge_plugin.inference.ddim import Callback
from mge_plugin.inference.denoise import Conditions, denoise_songs
from mge_plugin.inference.outpaint import outpaint_songs
from mge_plugin.inference.request import Sampling
from mge_plugin.inference.samplers import Method, check_sampler
from mge_plugin.inference.schedule import Start
from mge_plugin.inference.seeds import ItemNoise
from mge_plugin.inference.tasks import Task, by_track
from mge_plugin.inference.windows import Windows
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEModel
from mge_plugin.prompts import Prompt
from mge_plugin.tracks import NUM_TRACKS


@dataclass(frozen=True)
class Kept:
    """A track's latents (c, n), and the frames (n,) of them that are to stay, 1 or 0."""

    latents: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Item:
    """One row of a batch."""

    prompts: Prompt  # by track
    seed: int
    frames: int  # of the song
    given: Tensor | None = None  # latents (c, n) of the task's given track
    sounding: Sequence[bool] | None = None  # which windows are denoised; None is all
    negative: Prompt = None
    kept: Kept | None = None  # of the task's prompted track
    start: Start | None = None  # latents (k, c, n) to begin from


class Engine:
    """A model on a device."""

    def __init__(self, model: MGEModel, sample_size: int, device: str) -> None:
        self.model, self.device = model, device
        self.codec = Codec(model.pretransform, model.sample_rate)
        self.ratio = model.pretransform.downsampling_ratio  # samples a latent frame
        self.frames = sample_size // self.ratio  # of a window

    def windows(self, samples: int) -> Windows:
        """Those of a song of so many samples at the model's rate."""
        return Windows.cover(self.frames_of(samples), self.frames)

    def frames_of(self, samples: int) -> int:
        """Latent frames of so many samples."""
        return -(-samples // self.ratio)

    def encode(self, audio: np.ndarray) -> Tensor:
        """(channels, samples) at the model's rate to latents (c, n), silent to the last window."""
        padded = self.windows(audio.shape[1]).padded_length * self.ratio
        return self.codec.encode(torch.from_numpy(fit_length(audio, padded)))

    def decode(self, latents: Tensor, samples: int) -> np.ndarray:
        """Latents (c, n) to audio (channels, samples)."""
        audio = self.codec.decode(latents[:, : self.windows(samples).padded_length])
        audio = np.ascontiguousarray(audio[:, :samples].numpy())
        if not np.isfinite(audio).all():
            raise ValueError("the model made NaN or infinite samples: are its weights damaged?")
        return audio

    def steps(self, samples: Sequence[int], sampling: Sampling) -> int:
        """How often the callback is called for songs of those lengths, in one round."""
        longest = max(len(self.windows(length).starts) for length in samples)
        return sampling.steps * (longest if sampling.long_form == "sequential" else 1)

    @torch.no_grad()
    def denoise(
        self,
        task: Task,
        items: Sequence[Item],
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        """Latents (b, k, c, n) of the items, n up to the last window of the longest."""
        check_sampler(sampling.sampler, self.model.diffusion_objective)
        windows = Windows.cover(max(item.frames for item in items), self.frames)
        channels = self.model.io_channels // NUM_TRACKS
        shape = (NUM_TRACKS, channels, windows.padded_length)
        noise = ItemNoise([item.seed for item in items], shape, self.device)
        run = outpaint_songs if sampling.long_form == "sequential" else denoise_songs
        return run(
            self.model.model,
            noise,
            self._conditions(task, items, sampling, noise, windows.padded_length),
            _method(sampling),
            windows,
            self._chosen(items),
            sampling.window_batch,
            callback,
            self._start(items, windows.padded_length),
        )

    def embed(self, prompts: Sequence[Prompt]) -> Tensor:
        """Embeddings (b, k, d), zeros where nothing is asked."""
        metadata = [dict.fromkeys(self.model.conditioner.conditioners, p) for p in prompts]
        return self.model.embeddings(self.model.conditioner(metadata, self.device))

    @property
    def hears(self) -> bool:
        """Whether the model can embed audio."""
        return any(c.hears for c in self.model.conditioner.conditioners.values())

    def similarity(self, task: Task, prompt: Prompt, audio: np.ndarray) -> float | None:
        """Cosine of the prompt's embedding and the audio's; None if the model cannot hear."""
        if not self.hears or not prompt or not audio.any():
            return None
        example = {"audio": torch.from_numpy(audio), "sample_rate": self.model.sample_rate}
        wanted, heard = self.embed([by_track(prompt, task), {task.prompted.label: example}])[
            :, task.prompted
        ]
        return float(torch.cosine_similarity(wanted, heard, dim=0))

    def by_window(self, audio: np.ndarray) -> Tensor:
        """(channels, samples) to (window, channels, samples), the last one filled with silence."""
        windows = self.windows(audio.shape[1])
        padded = fit_length(audio, windows.padded_length * self.ratio)
        return windows.cut(torch.from_numpy(padded), self.ratio)

    def _chosen(self, items: Sequence[Item]) -> list[tuple[int, int]]:
        """The (item, window) pairs that are denoised."""
        chosen = []
        for i, item in enumerate(items):
            count = len(Windows.cover(item.frames, self.frames).starts)
            sounding = item.sounding or [True] * count
            chosen += [(i, w) for w in range(count) if sounding[w]]
        return chosen

    def _conditions(
        self,
        task: Task,
        items: Sequence[Item],
        sampling: Sampling,
        noise: ItemNoise,
        frames: int,
    ) -> Conditions:
        negative = None
        if any(item.negative for item in items):
            negative = self.model.model.modulate(self.embed([item.negative for item in items]))
        given = self._given(task, items, noise, frames)
        guidance = Guidance(
            sampling.cfg_scale, sampling.cfg_interval, sampling.cfg_rescale, sampling.apg_scale
        )
        modulations = self.model.model.modulate(self.embed([item.prompts for item in items]))
        return Conditions(modulations, given, negative, guidance)

    def _given(
        self, task: Task, items: Sequence[Item], noise: ItemNoise, frames: int
    ) -> Given | None:
        """The given track and the frames to keep, silent latents after a shorter song's end."""
        given = None
        if items[0].given is not None:
            given = Given.track(task.given, self._stack([item.given for item in items], frames))
        if all(item.kept is None for item in items):
            return given
        first = noise.first()
        latents, keep = torch.zeros_like(first), torch.zeros_like(first[:, :, 0])
        for i, kept in enumerate(item.kept for item in items):
            if kept is not None:
                latents[i, task.prompted, :, : kept.latents.shape[-1]] = kept.latents
                keep[i, task.prompted, : len(kept.frames)] = kept.frames
        return (given or Given.nothing(first)).keeping(keep, latents, first)

    def _start(self, items: Sequence[Item], frames: int) -> Start | None:
        """What all items begin from, at one level; None if they begin from noise."""
        starts = [item.start for item in items]
        levels = sorted({1.0 if start is None else start.level for start in starts})
        if len(levels) > 1:
            raise ValueError(f"init: items of a batch begin at one level, found {levels}")
        if levels == [1.0]:
            return None
        flat = [start.latents.flatten(0, 1) for start in starts]
        latents = self._stack(flat, frames).unflatten(1, (NUM_TRACKS, -1))
        return Start(latents, levels[0])

    def _stack(self, tensors: Sequence[Tensor], frames: int) -> Tensor:
        """(c, n) each to (b, c, frames); windows beyond a song's own are never looked at."""
        padded = [torch.nn.functional.pad(t, (0, frames - t.shape[-1])) for t in tensors]
        return torch.stack(padded).to(self.device)

    @contextmanager
    def enough_memory(self, sampling: Sampling) -> Iterator[None]:
        """Where torch cannot allocate, MemoryError says what did not fit and what may."""
        try:
            yield
        except RuntimeError as error:
            if _is_memory(error):
                raise self._no_memory(sampling) from error
            raise

    def _no_memory(self, sampling: Sampling) -> MemoryError:
        seconds = self.frames * self.ratio / self.model.sample_rate
        advice = "a smaller model or machine with more memory is needed"
        if sampling.window_batch > 1:
            advice = f"try window_batch {sampling.window_batch // 2}"
        return MemoryError(
            f"not enough memory on {self.device} for {sampling.window_batch} windows of "
            f"{seconds:.1f} s at a time: {advice}"
        )


def _method(sampling: Sampling) -> Method:
    return Method(
        sampling.sampler, sampling.steps, sampling.schedule, sampling.eta, sampling.resamplings
    )


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on a GPU or (by its text alone) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
