"""Options in groups: a command takes a dataclass, its user sees the fields as options.

What every command says and how: errors in one sentence, progress, no chatter of others.

The command line itself, and its entry point.

Texts of the command line to numbers, spans of seconds and pairs.
"""

import dataclasses
import functools
import inspect
import io
import logging
import math
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import Parameter
from typing import Any

import typer
from tqdm import tqdm


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """An expected error becomes one sentence on stderr; MGE_DEBUG=1 shows the whole of it."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("MGE_DEBUG"):
            raise
        complain(f"error: {sentence(error)}")
        raise SystemExit(1) from error


def sentence(error: Exception) -> str:
    """An error's message in one line; the system's own without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def complain(line: str) -> None:
    """Write a line to stderr, whatever characters a path has."""
    typer.echo(line.encode(errors="backslashreplace").decode(), err=True)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hide what SAT says while it is loaded: optional packages it does without, deprecations."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def sampling_progress(calls: int) -> Iterator[Callable[[Any], None]]:
    """A bar over the network's calls; yields the sampler's callback."""
    with tqdm(total=calls, desc="sampling", unit="step") as bar:

        def step(event: Any) -> None:
            bar.update(event["advance"])

        yield step


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A three-track music model for stable-audio-tools: make music, extract any instrument.",
)


def main() -> None:
    """Entry point: an expected error is one sentence on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with errors_as_sentences():
        app()


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


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses are, to typer, all of their fields.

    All of a command's parameters are given by name.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _fields(hints[name])
        else:
            kind = Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(kind=kind, annotation=hints[name]))

    @functools.wraps(command)
    def flattened(**values: Any) -> None:
        built = {
            name: group(
                **{field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            )
            for name, group in groups.items()
        }
        command(**values, **built)

    flattened.__signature__ = inspect.Signature(parameters)
    flattened.__annotations__ = {p.name: p.annotation for p in parameters}
    return flattened


def _fields(group: type) -> list[Parameter]:
    """A dataclass's fields as parameters."""
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is dataclasses.MISSING else field.default
