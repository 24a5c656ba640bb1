"""One training item from a song of latents: source, window, silence check, crop.

The same choices as for triplets of audio (paper, section E.1), in whole frames.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mge_plugin.data.batches import label_prompts, loss_mask
from mge_plugin.data.choice import MAX_TRIES, absent_label
from mge_plugin.data.latents.config import LatentsConfig
from mge_plugin.data.latents.song import LatentSong, Tensors
from mge_plugin.data.options import SourceConfig
from mge_plugin.prompts import TEMPLATE
from mge_plugin.tracks import Track


@dataclass(frozen=True)
class LatentForm:
    """What the model takes."""

    frames: int  # window length
    silence_db: float = -60.0  # a window below this RMS is silent, dBFS
    draw: bool = True  # draw from the posterior where its deviation is stored; or take its mean
    source: SourceConfig = field(default_factory=SourceConfig)  # what is asked
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn an item
    labels: tuple[str, ...] = ()  # of all songs: what may be asked though it is absent

    @classmethod
    def of(cls, config: LatentsConfig, frames: int, labels: tuple[str, ...]) -> "LatentForm":
        """A dataset config's, for windows of so many frames."""
        draw = config.posterior == "draw"
        return cls(frames, config.silence_db, draw, config.source, config.templates, labels)


@dataclass(frozen=True)
class LatentWindow:
    """One choice: this stem of this song (none of a mixture alone), from this frame."""

    song: LatentSong
    source: int | None
    start: int
    sounding: tuple[int, ...]  # the stems that sound in it
    absent: str | None = None  # a label that is asked for though nothing of it sounds

    @property
    def rows(self) -> dict[Track, int | None]:
        """Each track's row in `latents`; None is silence."""
        song = self.song
        source = None if self.source is None else song.row((self.source,))
        submixture = song.row(song.without(self.source))
        mixture = song.row(song.every)
        return {Track.MIXTURE: mixture, Track.SUBMIXTURE: submixture, Track.SOURCE: source}

    @property
    def labels(self) -> dict[Track, tuple[str, ...]]:
        """What sounds in each track; nothing is known of a mixture alone."""
        if self.song.mixture_only:
            return dict.fromkeys(Track, ())
        source = {self.source} & set(self.sounding)
        stems = {
            Track.MIXTURE: set(self.sounding),
            Track.SUBMIXTURE: set(self.sounding) - source,
            Track.SOURCE: source,
        }
        names = {
            track: {self.song.stems[i].label for i in numbers} for track, numbers in stems.items()
        }
        return {track: tuple(sorted(labels)) for track, labels in names.items()}


def draw_window(
    song: LatentSong, tensors: Tensors, form: LatentForm, rng: np.random.Generator
) -> LatentWindow:
    """Choose the source uniformly over those that may be, then up to 10 starts until it sounds.

    If it never does, the last start stands: a song may rest. Where all labels sound the source is
    chosen as ever.
    """
    power = tensors("power")[:].numpy()
    last_start = max(0, song.frames - form.frames)

    def sounding_from(start: int) -> tuple[int, ...]:
        return _sounding(power[:, start : start + form.frames], form)

    if form.source.p_absent and not song.mixture_only and rng.random() < form.source.p_absent:
        start = int(rng.integers(last_start + 1))
        sounding = sounding_from(start)
        absent = absent_label([song.stems[i].label for i in sounding], form.labels, rng)
        if absent is not None:
            return LatentWindow(song, None, start, sounding, absent)
    source = _choose_source(song, form.source, rng)
    for _ in range(MAX_TRIES):
        start = int(rng.integers(last_start + 1))
        sounding = sounding_from(start)
        if source in sounding or source is None:
            break
    return LatentWindow(song, source, start, sounding)


def _choose_source(song: LatentSong, config: SourceConfig, rng: np.random.Generator) -> int | None:
    """A stem, uniform over stems or over labels; None of a mixture alone."""
    choices = song.sources
    if config.choose == "labels" and choices:
        labels = sorted({song.stems[i].label for i in choices})
        label = labels[rng.integers(len(labels))]
        choices = [i for i in choices if song.stems[i].label == label]
    return choices[rng.integers(len(choices))] if choices else None


def cut(
    window: LatentWindow, tensors: Tensors, form: LatentForm, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Any]]:
    """The window as reals (3 * channels, frames) float32, unscaled as SAT's, and its metadata."""
    kept = min(form.frames, window.song.frames - window.start)
    stored, silence = tensors("latents"), tensors("silence")[:]
    tracks = [
        _cut_row(stored, silence, row, window.start, kept, form.frames)
        for row in window.rows.values()
    ]
    latents = torch.stack(tracks)
    mean, *deviation = latents.unbind(2)
    if deviation and form.draw:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        mean = mean + deviation[0] * torch.randn(mean.shape, generator=generator)
    padding_mask = torch.arange(form.frames) < kept
    template = form.templates[rng.integers(len(form.templates))]
    metadata = _describe(window, template) | {"padding_mask": [padding_mask]}
    if window.song.store.clap is not None:
        metadata["audio_embedding"] = _embeddings(window, tensors)
    return rearrange(mean, "k n c -> (k c) n").contiguous(), metadata


def _sounding(power: np.ndarray, form: LatentForm) -> tuple[int, ...]:
    """Stems whose RMS in `power` (stem, frame) is above silence, as that after the end is."""
    threshold = 10 ** (form.silence_db / 10) * form.frames
    return tuple(np.flatnonzero(power.sum(axis=1, dtype=np.float64) > threshold).tolist())


def _cut_row(
    stored: Any, silence: Tensor, row: int | None, start: int, kept: int, frames: int
) -> Tensor:
    """(frame, part, channel) float32: the song's frames as far as it goes, then silence's.

    A worker may be started within a trainer's autocast, which knows no float16 on the CPU.
    """
    padding = silence.float().expand(frames - (0 if row is None else kept), *silence.shape)
    if row is None:
        return padding
    return torch.cat([stored[row, start : start + kept].float(), padding])


def _embeddings(window: LatentWindow, tensors: Tensors) -> dict[str, Tensor]:
    """Each track's stored audio embedding (width,) nearest to the window in time."""
    song, grid = window.song, tensors("clap")
    info = song.store.clap
    places = grid.get_shape()[1] if hasattr(grid, "get_shape") else grid.shape[1]
    nearest = round(window.start * song.store.ratio / song.store.sample_rate / info.every)
    place = min(nearest, places - 1)
    return {
        track.label: (tensors("clap_silence")[:] if row is None else grid[row, place]).float()
        for track, row in window.rows.items()
    }


def _describe(window: LatentWindow, template: str) -> dict[str, Any]:
    """Metadata as that of a triplet of audio; `seconds_total` is the song's, not the window's."""
    song, labels = window.song, window.labels
    asked = labels if window.absent is None else labels | {Track.SOURCE: (window.absent,)}
    return {
        "prompt": label_prompts(asked, template),
        "labels": {track.label: list(names) for track, names in labels.items()},
        "path": song.path,
        "mixture_only": song.mixture_only,
        "loss_mask": loss_mask(song.mixture_only),
        "source": None if window.source is None else song.stems[window.source].path,
        "absent": window.absent is not None,
        "seconds_start": window.start * song.store.ratio / song.store.sample_rate,
        "seconds_total": song.seconds,
    }
