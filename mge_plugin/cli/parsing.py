"""Texts of the command line to numbers, spans of seconds and pairs."""

import math
import re
from collections.abc import Sequence


def numbers(option: str, text: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    """Numbers with commas between, as many as one of `counts`."""
    try:
        parsed = tuple(float(part) for part in text.split(","))
    except ValueError:
        parsed = ()
    if len(parsed) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ValueError(f"{option}: expected {wanted} numbers with commas, found {text!r}")
    return parsed


def span(option: str, text: str) -> tuple[float, float]:
    """`START-END`, each in seconds or as m:ss or h:mm:ss, to seconds."""
    times = [_seconds(part) for part in text.split("-")]
    if len(times) != 2 or None in times:
        raise ValueError(
            f"{option}: expected START-END, such as 0:40-0:52 or 40-52.5, found {text!r}"
        )
    start, end = times
    if not start < end:
        raise ValueError(f"{option}: expected an end after the start, found {text!r}")
    return start, end


def _seconds(text: str) -> float | None:
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text.strip(), re.ASCII):
        return None
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total if math.isfinite(total) else None


def pairs(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    """Both sides of the first equals sign of each text of a `form` such as TRACK=DB."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and name and value):
            raise ValueError(f"{option}: expected {form}, found {text!r}")
        if name in found:
            raise ValueError(f"{option}: expected {name!r} once, found {value!r} too")
        found[name] = value
    return found
