"""JSON sections as frozen dataclasses: an unknown key raises and suggests the nearest one."""

import dataclasses
import difflib
import json
import math
import operator
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mge_plugin.files import read_regular

Section = TypeVar("Section")

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
}

found = reprlib.repr  # a value in a message: short, however long or deep it is


class ConfigError(ValueError):
    """A configuration that cannot be used; each problem names the key, the value and the remedy."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object; a missing, broken or differently shaped file raises ConfigError."""
    path = Path(path)
    try:
        content = json.loads(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {found(content)}")
    return content


def parse_section(cls: type[Section], values: Mapping[str, Any] | None, where: str) -> Section:
    """Build the dataclass `cls` from a JSON object; `where` names the section in messages.

    Every problem, of nested sections too, is in the `problems` of one ConfigError.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object, found {found(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    replaced = getattr(cls, "REPLACED", {})  # keys of stable-audio-tools -> what to use instead
    unknown = [_unknown_key(where, key, fields, replaced) for key in values if key not in fields]
    missing = [
        f"{where}: missing key {name!r}"
        for name, field in fields.items()
        if name not in values and _is_required(field)
    ]
    known = [key for key in values if key in fields]
    entries = [(hints[key], values[key], f"{where}.{key}") for key in known]
    try:
        parsed = _parse_all(entries, missing)
        section = _build(cls, dict(zip(known, parsed, strict=True)), where)
    except ConfigError as error:
        raise ConfigError(*unknown, *error.problems) from error
    if unknown:
        raise ConfigError(*unknown)
    return section


def option(
    default: Any,
    help: str,
    *,
    group: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] | None = None,
) -> Any:
    """A dataclass field that is an option: CLI options, UI fields and doc tables derive from it.

    The metadata has `help`, `group`, `low`, `high` (both inclusive) and `choices` (a tuple).
    """
    metadata: dict[str, Any] = {"help": help, "group": group, "low": low, "high": high}
    metadata["choices"] = None if choices is None else tuple(choices)
    return dataclasses.field(default=default, metadata=metadata)


def check_options(section: Any) -> None:
    """Check and convert the options of a frozen dataclass, to be called in its `__post_init__`.

    NumPy numbers become Python's, lists become tuples. All problems are in one ConfigError.
    """
    problems: list[str] = []
    for field in dataclasses.fields(section):
        if "choices" not in field.metadata:
            continue
        try:
            value = _checked_option(field, getattr(section, field.name))
        except ConfigError as error:
            problems += error.problems
        else:
            object.__setattr__(section, field.name, value)
    if problems:
        raise ConfigError(*problems)


def _checked_option(field: dataclasses.Field, value: Any) -> Any:
    """The value of one option as a Python number, text or tuple."""
    name, meta = field.name, field.metadata
    if value is None and field.default is None:
        return None
    if meta["choices"] is not None:
        choose(name, value, dict.fromkeys(meta["choices"]))
        return value
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return tuple(_checked_number(field, item, float) for item in value)
    if isinstance(field.default, bool):
        if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
            raise ConfigError(f"{name}: expected true or false, found {found(value)}")
        return bool(value)
    kind: type = int if "int" in str(field.type) else float
    return _checked_number(field, value, kind)


def _checked_number(field: dataclasses.Field, value: Any, kind: type) -> Any:
    """A finite number of the kind within the option's bounds."""
    low, high = field.metadata["low"], field.metadata["high"]
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{field.name}: expected {_WORDS[kind]}, found {found(value)}") from None
    below, above = low is not None and number < low, high is not None and number > high
    if below or above or not math.isfinite(number):
        bounds = f" from {low:g}" * (low is not None) + f" up to {high:g}" * (high is not None)
        raise ConfigError(f"{field.name}: expected {_WORDS[kind]}{bounds}, found {found(value)}")
    return number


def _build(cls: type[Section], values: Mapping[str, Any], where: str) -> Section:
    """Construct the dataclass; its own problems get the section's name."""
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(*(f"{where}: {problem}" for problem in error.problems)) from error


def _unknown_key(where: str, key: str, known: Iterable[str], replaced: Mapping[str, str]) -> str:
    """The sentence for an unknown key, with what replaces it or the nearest known one."""
    if key in replaced:
        return f"{where}: key {found(key)} of stable-audio-tools does not apply: {replaced[key]}"
    return f"{where}: unknown key {found(key)}, {_suggest(key, known)}"


def choose(where: str, name: Any, table: Mapping[str, Any]) -> Any:
    """Look `name` up in `table`; an unknown name raises ConfigError with the nearest one."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{where}: unknown value {found(name)}, {_suggest(name, table)}")
    return table[name]


def _suggest(name: Any, known: Iterable[str]) -> str:
    known = sorted(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.7)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known) or 'none'}"


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parse_all(entries: Iterable[tuple[Any, Any, str]], problems: Iterable[str] = ()) -> list[Any]:
    """Parse (type, value, where) entries; raise the problems of all, after `problems`."""
    parsed, problems = [], list(problems)
    for hint, value, where in entries:
        try:
            parsed.append(_parse_value(hint, value, where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return parsed


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        shapes = [(a, typing.get_origin(a)) for a in kinds]
        if isinstance(value, (list, tuple)):
            kinds = [a for a, origin in shapes if origin is tuple] or kinds
        elif isinstance(value, str):
            kinds = [a for a, origin in shapes if a is str or origin is typing.Literal] or kinds
        return _parse_value(kinds[0], value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return parse_section(hint, value, where)
    if origin is tuple:
        return _parse_list(arguments[0], value, where)
    if origin is typing.Literal:
        return choose(where, value, {name: name for name in arguments})
    if hint is Any:
        return value
    return _parse_plain(origin or hint, value, where)


def _parse_list(hint: Any, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, found {found(value)}")
    return tuple(_parse_all((hint, item, f"{where}[{i}]") for i, item in enumerate(value)))


def _parse_plain(hint: type, value: Any, where: str) -> Any:
    """A number, text, truth value or object of exactly its type: true is not a number."""
    fits = _is_number(value) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {_WORDS[hint]}, found {found(value)}")
    return hint(value)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; Python reads NaN and 1e999 too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def at(config: Any, path: str) -> Any:
    """The value at a dotted path of JSON objects, None where there is none."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def is_whole(value: Any) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def whole(config: Any, path: str, default: int | None = None) -> int | None:
    """The whole number above 0 at a dotted path; None if there is something else."""
    value = at(config, path)
    value = default if value is None else value
    return value if is_whole(value) else None


def problems_of(parse: Callable[..., Any], *arguments: Any) -> list[str]:
    """What `parse` finds wrong with its arguments."""
    try:
        parse(*arguments)
    except ConfigError as error:
        return list(error.problems)
    return []
