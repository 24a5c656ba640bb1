"""One self-contained HTML file: text, mixers, tables; nothing is loaded from outside.

    Page -> Section -> Clip   -> MixerTrack, a row of <mge-mixer> (templates/mixer.js)
                    -> Table

Prompts and titles are untrusted: the templates escape every string, and the page's
Content-Security-Policy loads nothing over the network and runs no script but `templates/mixer.js`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from mge_plugin.files import write_file
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
    spectrogram_png,
)

logger = logging.getLogger(__name__)

_MINUS = "\N{MINUS SIGN}"


def format_db(level_db: float, unit: str = "dBFS") -> str:
    """'−6.0 dBFS' or '+3.5 dBFS', and 'silent' for -inf."""
    if level_db == -math.inf:
        return "silent"
    number = round(level_db, 1) + 0.0  # no -0.0
    return f"{f'{number:+.1f}' if number else '0.0'} {unit}".replace("-", _MINUS)


def format_length(seconds: float) -> str:
    """'1:23.4', '9.5 s' or '62.5 µs'."""
    if seconds >= 59.95:
        tenths = round(seconds * 10)
        return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _format_sample_rate(sample_rate: int) -> str:
    """'44.1 kHz'."""
    return f"{sample_rate / 1000:g} kHz"


def _format_channels(count: int) -> str:
    """'mono', 'stereo' or '6 channels'."""
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _is_number(cell: str) -> bool:
    """Whether a table cell is a number; '−3.1', '12 %' and '0.5 ± 0.1' are."""
    head = cell.replace(_MINUS, "-").split("±")[0].strip().rstrip("% ")
    try:
        float(head)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Clip:
    """Audio with a title: one track of its section's mixer."""

    title: str
    caption: str
    audio: np.ndarray  # (channels, samples), floats, 1.0 is full scale
    sample_rate: int  # Hz
    prompt: str | None = None
    part: bool = False  # whether the parts of the section sum to one of its other clips


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
    """A heading, text, the clips in one mixer, then the tables."""

    title: str
    text: str = ""
    clips: Sequence[Clip] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """`notice` is shown as a warning; `facts` are short, such as {"seed": "7"}."""

    title: str
    lead: str = ""
    notice: str | None = None
    sections: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MixerTrack:
    """A clip as the mixer shows it."""

    clip: Clip
    audio_url: str
    picture_url: str
    levels: Levels
    gain_db: float = 0.0  # of the player only, below 0 if the clip is over full scale
    download: str | None = None  # file name of the link, if there is one

    @property
    def channels(self) -> int:
        return self.clip.audio.shape[0]

    @property
    def seconds(self) -> float:
        return self.clip.audio.shape[1] / self.clip.sample_rate


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write `page` as one HTML file at `path`, whole or not at all, and return the path."""
    html = render_page(page).encode("utf-8", errors="xmlcharrefreplace")  # for lone surrogates
    logger.info("%s: %.1f MB", path, len(html) / 1e6)
    return write_file(Path(path), html)


def render_page(page: Page) -> str:
    """Return the HTML of `page`; broken audio raises a ValueError that names the clip."""
    script = Markup(mixer_script())
    return (
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            script=script,
            script_hash=_base64(hashlib.sha256(script.encode()).digest()),
            colours=colour_stops(9),
            scale=[f"{db:g} dB".replace("-", _MINUS) for db in (FLOOR_DB, VMAX_DB)],
        )
    )


def render_mixer(tracks: Sequence[MixerTrack], name: str) -> Markup:
    """Return the HTML of one mixer; `name` is the file name of a downloaded mix."""
    rate = max(track.clip.sample_rate for track in tracks)
    html = _templates().get_template("mixer.html").render(tracks=tracks, rate=rate, name=name)
    return Markup(html)


def mixer_script() -> str:
    """The script that defines <mge-mixer>."""
    return _templates().get_template("mixer.js").render()


def _mix_clips(clips: Sequence[Clip], name: str) -> Markup:
    return render_mixer([_embed(clip) for clip in clips], name)


def _embed(clip: Clip) -> MixerTrack:
    """Measure `clip`, draw it, and put audio and picture into data URIs."""
    name = f"clip {clip.title!r}"
    audio = checked_audio(clip.audio, name)
    sample_rate = checked_sample_rate(clip.sample_rate, name)
    flac, gain = encode_flac(audio, sample_rate)
    picture = spectrogram_png(audio, sample_rate, axes=False)
    return MixerTrack(
        replace(clip, audio=audio, sample_rate=sample_rate),
        f"data:audio/flac;base64,{_base64(flac)}",
        f"data:image/png;base64,{_base64(picture)}",
        measure_levels(audio),
        decibels(gain),
    )


def _numeric_columns(table: Table) -> list[bool]:
    cells = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [bool(column) and all(map(_is_number, column)) for column in cells]


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
        channels=_format_channels,
        db=format_db,
        duration=format_length,
        is_finite=math.isfinite,
        mixer=_mix_clips,
        numeric_columns=_numeric_columns,
        rate=_format_sample_rate,
    )
    return environment
