"""One self-contained HTML file: text, players, spectrograms, tables; nothing comes from outside.

    Page -> Section -> Clip  -> Card, what the template shows of it
                    -> Table

Prompts and titles are untrusted: the templates escape every string, and the page's
Content-Security-Policy loads nothing from anywhere and runs no script but `templates/page.js`.

Numbers as a reader likes them.

What a result page says. Strings are plain text; the page escapes them.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from mge_plugin.report.pictures import (
    FLOOR_DB,
    VMAX_DB,
    Levels,
    checked_audio,
    checked_sample_rate,
    colour_stops,
    decibels,
    encode_flac,
    measure_levels,
    plot_box,
    spectrogram_png,
)

logger = logging.getLogger(__name__)

_MINUS = "\N{MINUS SIGN}"
_METER_FLOOR_DB = -60.0  # left end of a level meter


def format_db(level_db: float, unit: str = "dBFS") -> str:
    """'−6.0 dBFS' or '+3.5 dBFS', and 'silent' for -inf."""
    if level_db == -math.inf:
        return "silent"
    number = round(level_db, 1) + 0.0  # no -0.0
    return f"{f'{number:+.1f}' if number else '0.0'} {unit}".replace("-", _MINUS)


def format_length(seconds: float) -> str:
    """'1:23.4', '9.5 s' or '62.5 µs'."""
    if seconds >= 59.95:
        return format_clock(seconds)
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def format_clock(seconds: float) -> str:
    """'0:09.5'."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _format_sample_rate(sample_rate: int) -> str:
    """'44.1 kHz'."""
    return f"{sample_rate / 1000:g} kHz"


def _format_channels(count: int) -> str:
    """'mono', 'stereo' or '6 channels'."""
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def meter_percent(level_db: float) -> float:
    """Where `level_db` stands on a meter from METER_FLOOR_DB (0) to full scale (100)."""
    share = 1 - max(level_db, _METER_FLOOR_DB) / _METER_FLOOR_DB
    return round(100 * min(share, 1.0), 1)


def is_number(cell: str) -> bool:
    """Whether a table cell is a number; '−3.1', '12 %' and '0.5 ± 0.1' are."""
    head = cell.replace(_MINUS, "-").split("±")[0].strip().rstrip("% ")
    try:
        float(head)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Clip:
    """Audio with a player, a spectrogram and its levels."""

    title: str
    caption: str
    audio: np.ndarray  # (channels, samples), floats, 1.0 is full scale
    sample_rate: int  # Hz
    prompt: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many as there are columns; a column of numbers is aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.caption!r}: row {list(row)} has {len(row)} cells, "
                    f"expected {len(self.columns)}, one for each of {list(self.columns)}"
                )


@dataclass(frozen=True)
class Section:
    """A heading, text, the clips as cards, then the tables."""

    title: str
    text: str = ""
    clips: Sequence[Clip] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """`notice` is what nobody may overlook; `facts` are short, such as {"seed": "7"}."""

    title: str
    lead: str = ""
    notice: str | None = None
    sections: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Card:
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
            scale=[f"{db:g} dB".replace("-", _MINUS) for db in (FLOOR_DB, VMAX_DB)],
        )
    )


def _make_card(clip: Clip) -> _Card:
    """Measure, draw and encode `clip`."""
    name = f"clip {clip.title!r}"
    audio = checked_audio(clip.audio, name)
    sample_rate = checked_sample_rate(clip.sample_rate, name)
    flac, gain = encode_flac(audio, sample_rate)
    return _Card(
        audio_uri=f"data:audio/flac;base64,{_base64(flac)}",
        picture_uri=f"data:image/png;base64,{_base64(spectrogram_png(audio, sample_rate))}",
        n_channels=audio.shape[0],
        seconds=audio.shape[1] / sample_rate,
        levels=measure_levels(audio),
        gain_db=decibels(gain),
    )


def _numeric_columns(table: Table) -> list[bool]:
    cells = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [bool(column) and all(map(is_number, column)) for column in cells]


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
        card=_make_card,
        channels=_format_channels,
        clock=format_clock,
        db=format_db,
        duration=format_length,
        is_finite=math.isfinite,
        meter=meter_percent,
        numeric_columns=_numeric_columns,
        rate=_format_sample_rate,
    )
    return environment
