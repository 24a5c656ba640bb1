"""The `mge` command line itself: its entry point, how errors are shown, options from dataclasses.

An option is declared once, as a dataclass field made by `config.option`. `grouped` turns the fields
into options of a command and passes the command what its user gave.
"""

import dataclasses
import functools
import importlib
import inspect
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter
from typing import Annotated, Any

import typer

from mge_plugin import __version__
from mge_plugin.config import choose, option
from mge_plugin.launcher import quietly

_LIST = 4  # choices up to this number are listed in place of a value
Given = dict[str, Any]  # the options of a dataclass that were given, by field


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    """Print an expected error as one sentence; MGE_DEBUG=1 shows the traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("MGE_DEBUG"):
            raise
        complain(f"error: {sentence(error)}")
        raise SystemExit(1) from error


def sentence(error: Exception) -> str:
    """An error's message in one line, without the number of a system error."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def say(line: str) -> None:
    """Write a line to stdout, whatever characters a path has."""
    typer.echo(line.encode(errors="backslashreplace").decode())


def complain(line: str) -> None:
    """Write a line to stderr, whatever characters a path has."""
    typer.echo(line.encode(errors="backslashreplace").decode(), err=True)


def slow_module(name: str) -> types.ModuleType:
    """Import a module when a command needs it: torch and SAT take seconds, and `--help` none."""
    with quietly():
        return importlib.import_module(name)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A three-track music model for stable-audio-tools: generate music, extract instruments.",
)


def _print_version(requested: bool) -> None:
    if requested:
        say(f"mge_plugin {__version__}")
        raise typer.Exit


@app.callback()
def _version(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of `mge` itself."""


def main() -> None:
    """Entry point: an expected error is one sentence on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with _errors_as_sentences():
        app()


def flag(name: str, default: Any, help: str, **metadata: Any) -> Any:
    """An `option` whose name on the command line is not its field's."""
    field = option(default, help, **metadata)
    return dataclasses.field(default=default, metadata={**field.metadata, "flag": name})


def grouped(
    command: Callable[..., None], groups: Mapping[str, type], defaults: str = "the model's"
) -> Callable[..., None]:
    """`command` with the fields of dataclasses as options.

    Each of `groups` is a parameter of `command` and its dataclass. The parameter gets the
    dataclass, or the given options alone if it is annotated with `Given`: the help calls the
    defaults of those `defaults`.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in groups and name in hints and parameter.kind is not Parameter.VAR_KEYWORD
    ]
    for name, group in groups.items():
        shown = defaults if hints.get(name) == Given else None
        parameters += [_parameter(group, field, shown) for field in dataclasses.fields(group)]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: field for field in dataclasses.fields(group)}
            found = {key: values.pop(key) for key in fields}
            given = {k: _parsed(fields[k], v) for k, v in found.items() if v is not None}
            values[name] = given if hints.get(name) == Given else group(**given)
        command(**values)

    vars(with_options)["__signature__"] = inspect.Signature(parameters)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def _parameter(group: type, field: dataclasses.Field, shown: str | None) -> Parameter:
    """A field as an option; with `shown` as its default it is None unless it was given."""
    meta, hint = field.metadata, typing.get_type_hints(group)[field.name]
    name = meta.get("flag", f"--{field.name.replace('_', '-')}")
    if hint is bool and field.default:
        name += f"/--no{name[1:]}"
    choices = meta["choices"] or ()
    described = typer.Option(
        name,
        help=meta["help"],
        rich_help_panel=meta["group"] or None,
        metavar="|".join(choices) if 0 < len(choices) <= _LIST else None,
        show_default=shown or field.default not in (None, False, (), ""),
    )
    default = None if shown else field.default
    if default is dataclasses.MISSING:
        default = Parameter.empty
    annotation: Any = Annotated[
        _kind(hint) if default is not None else _kind(hint) | None, described
    ]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(hint: Any) -> Any:
    """The type of which typer reads one value, or a list of values."""
    kinds = [k for k in typing.get_args(hint) if k is not type(None)]
    if isinstance(hint, types.UnionType):
        return str if len(kinds) > 1 else kinds[0]
    if typing.get_origin(hint) is tuple:
        return types.GenericAlias(list, (kinds[0],)) if kinds[-1] is Ellipsis else str
    return hint


def _parsed(field: dataclasses.Field, value: Any) -> Any:
    """Texts of several numbers as numbers, lists as tuples; choices and the lower bound checked."""
    choices, low = field.metadata["choices"], field.metadata["low"]
    if choices:
        return choose(field.name, value, {choice: choice for choice in choices})
    if isinstance(value, str) and not isinstance(field.default, str | None):
        numbers = _numbers(field.name, value)
        return numbers if len(numbers) > 1 or isinstance(field.default, tuple) else numbers[0]
    if low is not None and value < low:
        raise ValueError(f"{field.name}: expected {low} or more, found {value}")
    return tuple(value) if isinstance(value, list) else value


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{name}: expected numbers with commas, found {text!r}") from error


def pairs(name: str, texts: Sequence[str], form: str) -> Mapping[str, str]:
    """Both sides of the first equals sign of each text of a `form` such as TRACK=DB."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and key and value):
            raise ValueError(f"{name}: expected {form}, found {text!r}")
        if key in found:
            raise ValueError(f"{name}: expected {key!r} once, found {value!r} too")
        found[key] = value
    return found
