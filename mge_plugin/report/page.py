"""One self-contained HTML file: text, players, spectrograms, tables; nothing comes from outside.

    Page -> Section -> Clip  -> Card, what the template shows of it
                    -> Table

Prompts and titles are untrusted: the templates escape every string, and the page's
Content-Security-Policy loads nothing from anywhere and runs no script but `templates/page.js`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import os
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from . import formats
from .audio import checked_audio, checked_sample_rate, encode_flac
from .content import Clip, Page, Table
from .levels import Levels, decibels, measure_levels
from .spectrogram import FLOOR_DB, VMAX_DB, colour_stops, plot_box, spectrogram_png

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A clip as the template shows it."""

    audio_uri: str
    picture_uri: str
    n_channels: int
    seconds: float
    levels: Levels
    gain_db: float  # of the player only, 0 unless the clip is over full scale


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write `page` as one HTML file at `path`, whole or not at all, and return the path."""
    path = Path(path)
    html = render_page(page).encode("utf-8", errors="xmlcharrefreplace")  # for lone surrogates
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(html)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    logger.info("wrote %s, %.1f MB", path, len(html) / 1e6)
    return path


def render_page(page: Page) -> str:
    """Return the HTML of `page`; broken audio raises a ValueError that names the clip."""
    script = Markup(_templates().get_template("page.js").render())
    return (
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            script=script,
            script_hash=_base64(hashlib.sha256(script.encode()).digest()),
            plot=_plot_insets(),
            colours=colour_stops(9),
            scale=[f"{db:g} dB".replace("-", formats.MINUS) for db in (FLOOR_DB, VMAX_DB)],
        )
    )


def make_card(clip: Clip) -> Card:
    """Measure, draw and encode `clip`."""
    name = f"clip {clip.title!r}"
    audio = checked_audio(clip.audio, name)
    sample_rate = checked_sample_rate(clip.sample_rate, name)
    flac, gain = encode_flac(audio, sample_rate)
    return Card(
        audio_uri=f"data:audio/flac;base64,{_base64(flac)}",
        picture_uri=f"data:image/png;base64,{_base64(spectrogram_png(audio, sample_rate))}",
        n_channels=audio.shape[0],
        seconds=audio.shape[1] / sample_rate,
        levels=measure_levels(audio),
        gain_db=decibels(gain),
    )


def _numeric_columns(table: Table) -> list[bool]:
    cells = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [bool(column) and all(map(formats.is_number, column)) for column in cells]


def _plot_insets() -> dict[str, float]:
    """Distances of the plot from the edges of its picture, in percent."""
    left, bottom, width, height = (100 * share for share in plot_box())
    return {
        "left": left,
        "right": 100 - left - width,
        "bottom": bottom,
        "top": 100 - bottom - height,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        card=make_card,
        channels=formats.format_channels,
        clock=formats.format_clock,
        db=formats.format_db,
        duration=formats.format_length,
        is_finite=math.isfinite,
        meter=formats.meter_percent,
        numeric_columns=_numeric_columns,
        rate=formats.format_sample_rate,
    )
    return environment
