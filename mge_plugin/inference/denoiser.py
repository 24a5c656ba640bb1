"""Items of a batch to latents of their three tracks: prompts, seeds, windows, the sampler.

prompts -> embeddings -> modulations, once a run
given audio -> latents -.
noise by seed -----------> sampler over whole songs -> latents (b, k, c, n) -> audio

Latents from noise: the network with what is given and asked, run by a sampler.

A song of any length is one set of latents; the network sees it window by window, all windows of
all songs in the same batches, and where they overlap its predictions are joined before the sampler
takes its step. So the windows of a song agree at every step, and every sampler knows songs only.

Songs longer than the window, one window after another (what the paper's authors do).

Each window keeps the frames that it has in common with the one before. Slower than all windows
together, and a window does not know what comes; but it never averages, and needs little memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length
from mge_plugin.inference.request import Sampling, Task, by_track
from mge_plugin.inference.sampling import (
    Callback,
    ItemNoise,
    Method,
    Start,
    check_sampler,
    sample_ddim,
)
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.autoencoder import Codec
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion, MGEModel
from mge_plugin.prompts import Prompt
from mge_plugin.tracks import NUM_TRACKS, pack, unpack


@dataclass(frozen=True)
class Conditions:
    """What a run asks and knows, of every item of its batch."""

    modulations: Tensor  # (depth, b, 6*k*w)
    given: Given | None = None
    negative: Tensor | None = None  # modulations to move away from
    guidance: Guidance = field(default_factory=Guidance)

    def options(self, rows: Tensor | None, part: slice = slice(None)) -> dict[str, Any]:
        """The network's options for rows (item numbers) of a batch, `given` apart."""
        chosen = {"modulations": self.modulations, "negative_modulations": self.negative}
        if rows is not None:
            chosen = {k: v if v is None else v[:, rows[part]] for k, v in chosen.items()}
        guidance = self.guidance
        return chosen | {
            "cfg_scale": guidance.cfg_scale,
            "cfg_interval": guidance.cfg_interval,
            "scale_phi": guidance.cfg_rescale,
            "apg_scale": guidance.apg_scale,
        }


class SongDenoiser:
    """What samplers call: predictions (b, k, c, n) of whole songs at levels `t` (b, k).

    All levels of a call are one. `batch` windows go through the network at a time.
    """

    def __init__(
        self, network: MGEDiffusion, conditions: Conditions, rows: WindowRows, batch: int
    ) -> None:
        self.network, self.rows = network, rows
        given = conditions.given
        given = None if given is None else given.map(lambda x: self._rows_of(x))
        self.parts = []
        for first in range(0, len(rows), batch):
            part = slice(first, first + batch)
            options = conditions.options(rows.item, part)
            options["given"] = None if given is None else given.map(lambda x, p=part: x[p])
            self.parts.append((part, options))

    def __call__(self, x: Tensor, t: Tensor, return_info: bool = False) -> Any:
        pieces = self.rows.cut(x)
        level = t[0, 0]
        sigma = self.network.objective.alpha_sigma(level)[1] if level.device.type == "cpu" else None
        level = level.to(x.device, non_blocking=True)
        made, away = torch.empty_like(pieces), torch.empty_like(pieces)
        for part, options in self.parts:
            piece = pieces[part]
            levels = level.expand(piece.shape[:2])
            out = self.network(pack(piece), levels, sigma=sigma, return_info=return_info, **options)
            prediction, info = out if return_info else (out, None)
            made[part] = unpack(prediction)  # copied: a CUDA graph writes its output again
            if return_info:
                away[part] = unpack(info["uncond_output"])
        joined = self.rows.join(made)
        return (joined, {"uncond_output": self.rows.join(away)}) if return_info else joined

    def _rows_of(self, tensor: Tensor) -> Tensor:
        """The rows of something by frame (b, ..., n), or by item (b, k)."""
        return tensor[self.rows.item] if tensor.ndim == 2 else self.rows.cut(tensor)


def denoise_songs(
    network: MGEDiffusion,
    noise: ItemNoise,
    conditions: Conditions,
    method: Method,
    windows: Windows,
    chosen: Sequence[tuple[int, int]],
    batch: int,
    callback: Callback | None = None,
    start: Start | None = None,
) -> Tensor:
    """Latents (b, k, c, padded_length) of songs, the `chosen` (item, window) pairs together."""
    first = noise.first()
    if not chosen:
        return torch.zeros_like(first)
    rows = WindowRows(windows, chosen, len(first), first.device)
    known = conditions.given
    if not method.clamps:
        conditions = Conditions(
            conditions.modulations, None, conditions.negative, conditions.guidance
        )
    denoiser = SongDenoiser(network, conditions, rows, batch)
    latents = method.run(denoiser, first, noise.fresh, callback, network.objective, known, start)
    return latents if known is None else known.insert(latents)


def denoise_tracks(
    network: MGEDiffusion,
    noise: Tensor,
    embeddings: Tensor,
    given: Given | None,
    schedule: Tensor,
    cfg_scale: float,
    callback: Callback | None = None,
    negative: Tensor | None = None,
) -> Tensor:
    """Latents (b, k, c, n) of windows from `noise` of that shape, by DDIM; no more than a batch.

    `embeddings` (b, k, d), and `negative` ones to move away from, are projected once for the whole
    run. Given tracks come back as they were.
    """
    away = None if negative is None else network.modulate(negative)
    conditions = Conditions(network.modulate(embeddings), given, away, Guidance(cfg_scale))
    options = conditions.options(None) | {"given": given}

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        sigma = network.objective.alpha_sigma(t)[1]
        return unpack(network(pack(x), t.to(x.device), sigma=sigma, **options))

    latents = sample_ddim(denoiser, noise, schedule, callback, network.objective)
    return latents if given is None else given.insert(latents)


class _WindowNoise:
    """The frames of a song's noise that a window lies over."""

    def __init__(self, noise: ItemNoise, frames: slice, items: Tensor) -> None:
        self.noise, self.frames, self.items = noise, frames, items

    def first(self) -> Tensor:
        return self.noise.first()[self.items, ..., self.frames]

    def fresh(self, draw: int) -> Tensor:
        return self.noise.fresh(draw)[self.items, ..., self.frames]


def outpaint_songs(
    network: MGEDiffusion,
    noise: ItemNoise,
    conditions: Conditions,
    method: Method,
    windows: Windows,
    chosen: Sequence[tuple[int, int]],
    batch: int,
    callback: Callback | None = None,
    start: Start | None = None,
) -> Tensor:
    """As `denoise_songs`, window by window; the items of a batch together."""
    first = noise.first()
    latents, done = torch.zeros_like(first), first.new_zeros(len(first), len(windows.starts))
    for window, first_frame in enumerate(windows.starts):
        items = torch.tensor([item for item, w in chosen if w == window], device=first.device)
        if not len(items):
            continue
        frames = slice(first_frame, first_frame + windows.size)
        own = _WindowNoise(noise, frames, items)
        before = done[items, window - 1] if window else done.new_zeros(len(items))
        known = _known(conditions.given, items, frames, latents, before, windows.overlap, own)
        asked = replace(
            conditions,
            modulations=conditions.modulations[:, items],
            negative=None if conditions.negative is None else conditions.negative[:, items],
            given=known,
        )
        alone = Windows(windows.size, windows.size, windows.overlap)
        rows = [(row, 0) for row in range(len(items))]
        begin = start
        if start is not None:
            begin = Start(start.latents[items, ..., frames], start.level)
        made = denoise_songs(network, own, asked, method, alone, rows, batch, callback, begin)
        latents[items, ..., frames] = made
        done[items, window] = 1.0
    return latents


def _known(
    given: Given | None,
    items: Tensor,
    frames: slice,
    latents: Tensor,
    before: Tensor,
    overlap: int,
    noise: _WindowNoise,
) -> Given | None:
    """What a window knows: what is given or kept there, and the overlap with the one `before`."""
    made = latents[items, ..., frames]
    if given is None:
        cut = Given.nothing(made)
    else:
        cut = given.map(lambda x: x[items] if x.ndim == 2 else x[items, ..., frames])
    keep = torch.zeros_like(made[:, :, 0])
    keep[..., :overlap] = before[:, None, None]
    if cut.keep is not None:
        made = torch.where(cut.keep[:, :, None] > 0, cut.latents, made)
        keep = torch.maximum(keep, cut.keep)
    return cut.keeping(keep, made, noise.first()) if keep.any() else cut


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
