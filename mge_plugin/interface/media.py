"""Audio from a page and to it, pictures of it, and a run's progress as HTML."""

import base64
import html
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import soundfile as sf

from mge_plugin.data.audio import AudioError, audio_info, flac_problem, write_flac, write_wav
from mge_plugin.files import output_name
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Audio, Request, check_seconds
from mge_plugin.report.pictures import spectrogram_png

# SAT's names of MP3's bit rates -> soundfile's options; 0 is the best of what a rate allows.
_MP3 = {
    "mp3 320k": {"bitrate_mode": "CONSTANT", "compression_level": 0.0},
    "mp3 v0": {"bitrate_mode": "VARIABLE", "compression_level": 0.0},
    "mp3 128k": {"bitrate_mode": "CONSTANT", "compression_level": 2 / 3},
}
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
# Gradio 6 and 5 have different arguments: a player without a button that would upload to a hub,
# and an event that is no part of the API and shows no progress.
_GRADIO_6 = "buttons" in inspect.signature(gr.Audio).parameters
PLAYER: dict[str, Any] = {"buttons": ["download"]} if _GRADIO_6 else {"show_share_button": False}
_PRIVATE: dict[str, Any] = {"api_visibility": "private"} if _GRADIO_6 else {"api_name": False}
QUIET = _PRIVATE | {"show_progress": "hidden"}
_PREVIEW_SECONDS = 60.0  # of a song that a preview shows at most


def read_upload(value: Any, label: str) -> Audio | None:
    """What an audio component passes, a path or (Hz, samples), as Audio; None if it is empty.

    The file is one that Gradio received and checked; an error names it without its folder. Its
    length is checked before it is decoded.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path):
        sample_rate, samples = value
        return Audio(_as_float(np.asarray(samples), label), sample_rate)
    path = Path(value)
    try:
        sample_rate, frames = audio_info(path)
        check_seconds(max(frames, 1) / sample_rate)
        return Audio.of(path)
    except (AudioError, ValueError, OSError) as error:
        raise ValueError(f"{label}: {str(error).replace(str(path), path.name)}") from error


def _as_float(samples: np.ndarray, label: str) -> np.ndarray:
    """(samples,) or (samples, channels), integers by their full scale, as (channels, samples)."""
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{label}: expected samples that are numbers, found {samples.dtype}")
    return samples[None] if samples.ndim == 1 else samples.T


def formats() -> list[str]:
    """The file formats of SAT's page that can be written here."""
    return ["wav", "flac", *(_MP3 if "MP3" in sf.available_formats() else ())]


def write_audio(folder: Path, stem: str, audio: np.ndarray, sample_rate: int, form: str) -> Path:
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


class Preview:
    """Spectrograms of the prompted track at every `every`th step of a run; 0 is none."""

    def __init__(self, pipeline: Pipeline, request: Request, every: int) -> None:
        self.pipeline, self.request, self.every = pipeline, request, every
        length = request.like.seconds if request.like else request.seconds or math.inf
        self.seconds = min(_PREVIEW_SECONDS, length)
        self.pictures: list[tuple[bytes, str]] = []  # PNG, caption

    def add(self, step: Mapping[str, Any]) -> bytes | None:
        """The picture of a step, if it is one of those that have one."""
        if not self.every or "denoised" not in step or step["i"] % self.every:
            return None
        rate = self.pipeline.sample_rate
        latents = step["denoised"][0, self.request.info.prompted]
        audio = self.pipeline.decode(latents, round(self.seconds * rate))
        picture = spectrogram_png(audio, rate, axes=False)
        self.pictures.append((picture, f"step {step['i'] + 1}, t = {float(step['t']):.3f}"))
        return picture


def file_url(path: Path) -> str:
    """The address, relative to the page's, of a file in Gradio's temporary folder."""
    return f"gradio_api/file={path.as_posix()}"


def progress(done: int, total: int, text: str, picture: bytes | None) -> str:
    """A bar, a sentence and perhaps a spectrogram, HTML."""
    percent = 100 * done / max(total, 1)
    image = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        image = f'<img class="mge-preview" alt="Preview" src="data:image/png;base64,{data}">'
    return (
        f'<div role="progressbar" aria-label="Progress" aria-valuenow="{percent:.0f}">'
        f'<i style="width:{percent:.1f}%"></i></div><div>{html.escape(text)}</div>{image}'
    )


def sentence(text: str, error: bool = False) -> str:
    """A sentence, HTML."""
    kind = ' class="mge-error"' if error else ""
    return f'<div role="status"{kind}>{html.escape(text)}</div>'
