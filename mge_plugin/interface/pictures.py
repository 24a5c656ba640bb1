"""What a page shows of a sound: spectrogram, level meter, and how far a run has come."""

import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from mge_plugin.files import write_file
from mge_plugin.report.formats import format_db, format_length, meter_percent
from mge_plugin.report.levels import Levels, measure_levels
from mge_plugin.report.spectrogram import spectrogram_png

ROW_HEIGHT = 420  # pixels of a row's picture


def spectrogram(audio: np.ndarray, sample_rate: int) -> Image.Image:
    """A picture of (channels, samples)."""
    return Image.open(io.BytesIO(spectrogram_png(audio, sample_rate)))


def spectrogram_file(path: Path, audio: np.ndarray, sample_rate: int) -> Path:
    """The picture as a PNG file."""
    return write_file(path, spectrogram_png(audio, sample_rate, height=ROW_HEIGHT))


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
