"""Numbers as a reader likes them."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"
METER_FLOOR_DB = -60.0  # left end of a level meter


def format_db(level_db: float, unit: str = "dBFS") -> str:
    """'−6.0 dBFS' or '+3.5 dBFS', and 'silent' for -inf."""
    if level_db == -math.inf:
        return "silent"
    number = round(level_db, 1) + 0.0  # no -0.0
    return f"{f'{number:+.1f}' if number else '0.0'} {unit}".replace("-", MINUS)


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


def format_sample_rate(sample_rate: int) -> str:
    """'44.1 kHz'."""
    return f"{sample_rate / 1000:g} kHz"


def format_channels(count: int) -> str:
    """'mono', 'stereo' or '6 channels'."""
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def meter_percent(level_db: float) -> float:
    """Where `level_db` stands on a meter from METER_FLOOR_DB (0) to full scale (100)."""
    share = 1 - max(level_db, METER_FLOOR_DB) / METER_FLOOR_DB
    return round(100 * min(share, 1.0), 1)


def is_number(cell: str) -> bool:
    """Whether a table cell is a number; '−3.1', '12 %' and '0.5 ± 0.1' are."""
    head = cell.replace(MINUS, "-").split("±")[0].strip().rstrip("% ")
    try:
        float(head)
    except ValueError:
        return False
    return True
