"""What a run looks like on its way: the prompted track as the model sees it after some steps.

Audio from a page and to it: in Gradio's temporary folder, under names that are safe.

What a page shows of a sound: spectrogram, level meter, and how far a run has come.
"""

import html
import io
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from gradio.utils import get_upload_folder
from PIL import Image

from mge_plugin.data.audio import AudioError, flac_problem, read_audio, write_flac, write_wav
from mge_plugin.files import output_name, write_file
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Request
from mge_plugin.report.page import format_db, format_length, meter_percent
from mge_plugin.report.pictures import Levels, measure_levels, spectrogram_png
from mge_plugin.tracks import TASKS

Heard = tuple[np.ndarray, int]  # (channels, samples) float32 and Hz

# SAT's names of MP3's bit rates -> soundfile's options; 0 is the best of what a rate allows.
_MP3 = {
    "mp3 320k": {"bitrate_mode": "CONSTANT", "compression_level": 0.0},
    "mp3 v0": {"bitrate_mode": "VARIABLE", "compression_level": 0.0},
    "mp3 128k": {"bitrate_mode": "CONSTANT", "compression_level": 2 / 3},
}
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def fresh_folder() -> Path:
    """A new folder that Gradio may serve files from, and nobody else can guess."""
    parent = Path(get_upload_folder())
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="mge_", dir=parent))


def heard(value: Any, name: str) -> Heard | None:
    """What an audio component hands over, a file or (Hz, samples), as float32 (channels, samples).

    The file is one that Gradio received and checked; an error names it without its folder.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path):
        sample_rate, samples = value
        return _as_float(np.asarray(samples), name), int(sample_rate)
    path = Path(value)
    try:
        return read_audio(path)
    except AudioError as error:
        raise ValueError(f"{name}: {str(error).replace(str(path), path.name)}") from error


def formats() -> list[str]:
    """Those of SAT's file formats that can be written here."""
    return ["wav", "flac", *(_MP3 if "MP3" in sf.available_formats() else ())]


def write(folder: Path, stem: str, audio: np.ndarray, sample_rate: int, form: str) -> Path:
    """Write (channels, samples) in one of `formats`, at its own level."""
    path = folder / output_name(stem, f".{form.split()[0]}")
    if form == "wav":
        return write_wav(path, audio, sample_rate)
    if form == "flac":
        return write_flac(path, audio, sample_rate)
    sf.write(path, audio.T, sample_rate, format="MP3", subtype="MPEG_LAYER_III", **_MP3[form])
    return path


def format_problem(audio: np.ndarray, sample_rate: int, form: str) -> str | None:
    """Why a file of that format cannot hold (channels, samples); None if it can."""
    if form == "wav":
        return None
    if form not in formats():
        return "it cannot be written here"
    if form != "flac" and (len(audio) > 2 or sample_rate not in _MP3_RATES):
        return f"it has no {len(audio)} channels at {sample_rate} Hz"
    return flac_problem(audio, sample_rate)


def _as_float(samples: np.ndarray, name: str) -> np.ndarray:
    """(samples,) or (samples, channels), integers by their full scale, as (channels, samples)."""
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{name}: expected samples that are numbers, found {samples.dtype}")
    columns = samples[:, None] if samples.ndim == 1 else samples
    return np.ascontiguousarray(columns.T, dtype=np.float32)


_ROW_HEIGHT = 420  # pixels of a row's picture


def spectrogram(audio: np.ndarray, sample_rate: int) -> Image.Image:
    """A picture of (channels, samples)."""
    return Image.open(io.BytesIO(spectrogram_png(audio, sample_rate)))


def spectrogram_file(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """The picture as a PNG file."""
    return write_file(path, spectrogram_png(audio, sample_rate, height=_ROW_HEIGHT))


def meter(audio: np.ndarray, sample_rate: int) -> str:
    """Length, RMS and peak in words and as a bar, HTML."""
    levels = measure_levels(audio)
    return (
        f'<div style="display:flex;align-items:center;gap:0.8em">{_bar(levels)}'
        f'<span style="font-size:0.85em">RMS {format_db(levels.rms_db)}, '
        f"peak {format_db(levels.peak_db)}, {format_length(audio.shape[-1] / sample_rate)}"
        "</span></div>"
    )


def progress(done: int, total: int, text: str) -> str:
    """A bar and a sentence, HTML."""
    percent = 100 * done / max(total, 1)
    bar = f'<div role="progressbar" aria-valuenow="{percent:.0f}">{_filled(percent)}</div>'
    return f"{bar}<div>{html.escape(text)}</div>"


def _bar(levels: Levels) -> str:
    """The RMS filled, the peak a line."""
    place = f"left:calc({meter_percent(levels.peak_db)}% - 2px)"
    line = "position:absolute;top:0;height:100%;width:2px;background:var(--body-text-color)"
    tick = f'<div style="{line};{place}"></div>'
    return (
        f'<div style="position:relative;flex:1">{_filled(meter_percent(levels.rms_db))}{tick}</div>'
    )


def _filled(percent: float) -> str:
    """A bar that is full so far."""
    shape = "height:0.7em;border-radius:3px"
    full = f'<div style="{shape};width:{percent:.1f}%;background:var(--color-accent)"></div>'
    return f'<div style="{shape};background:var(--neutral-300)">{full}</div>'


def sentence(text: str, error: bool = False) -> str:
    """A sentence, HTML."""
    colour = "color:var(--error-text-color)" if error else ""
    return f'<div role="status" style="{colour}">{html.escape(text)}</div>'


_SECONDS = 60.0  # of a song that are shown at most


class Preview:
    """A callback that keeps a spectrogram of every `every`th step; 0 is none."""

    def __init__(self, pipeline: Pipeline, request: Request, every: int) -> None:
        self.pipeline, self.every = pipeline, every
        self.track = TASKS[request.task].prompted
        self.seconds = min(_SECONDS, length(request))
        self.pictures: list[tuple[Image.Image, str]] = []

    def __call__(self, step: Mapping[str, Any]) -> None:
        """Keep the picture of a step if it is its turn."""
        if self.every and step.get("i", 1) % self.every == 0:
            caption = f"step {step['i'] + 1}, t = {float(step['t']):.3f}"
            self.pictures.append((self.picture(step), caption))

    def picture(self, step: Mapping[str, Any]) -> Image.Image:
        """The first song's prompted track in a step's `denoised`."""
        ratio, rate = self.pipeline.ratio, self.pipeline.sample_rate
        latents = step["denoised"][0, self.track]
        samples = min(latents.shape[-1] * ratio, round(self.seconds * rate))
        audio = self.pipeline.decode(latents[:, : -(-samples // ratio)], samples)
        return spectrogram(audio, rate)


def length(request: Request) -> float:
    """Seconds that the result will have; infinite if only the model knows."""
    if request.like is not None:
        return request.like.seconds
    return request.seconds or math.inf
