"""JSON sections as frozen dataclasses: an unknown key raises and suggests the nearest known one."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Section = TypeVar("Section")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the value and the remedy."""


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object; a missing, broken or differently shaped file raises ConfigError."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def parse_section(cls: type[Section], values: Mapping[str, Any] | None, where: str) -> Section:
    """Build the dataclass `cls` from a JSON object; `where` names the section in messages."""
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object, found {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(unknown_key(where, key, fields))
    missing = [n for n, f in fields.items() if n not in values and _is_required(f)]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(map(repr, missing))}")
    parsed = {k: _parse_value(hints[k], v, f"{where}.{k}") for k, v in values.items()}
    try:
        return cls(**parsed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def unknown_key(where: str, key: str, known: typing.Iterable[str]) -> str:
    """The sentence for an unknown key or name, with the nearest known one."""
    known = sorted(known)
    nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"{where}: unknown key {key!r}, {hint}"


def choose(where: str, name: Any, table: Mapping[str, Any]) -> Any:
    """Look `name` up in `table`; an unknown name raises ConfigError with the nearest one."""
    if not isinstance(name, str) or name not in table:
        nearest = difflib.get_close_matches(str(name), list(table), n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(table))}"
        raise ConfigError(f"{where}: unknown value {name!r}, {hint}")
    return table[name]


def _is_required(field: dataclasses.Field) -> bool:
    return (
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(a for a in arguments if a is not type(None))
        return _parse_value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return parse_section(hint, value, where)
    if origin is tuple:
        return _parse_list(arguments[0], value, where)
    if origin is typing.Literal:
        return choose(where, value, {name: name for name in arguments})
    if origin is dict or hint is Any:
        return value
    return _parse_scalar(hint, value, where)


def _parse_list(hint: Any, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    return tuple(_parse_value(hint, item, f"{where}[{i}]") for i, item in enumerate(value))


def _parse_scalar(hint: type, value: Any, where: str) -> Any:
    accepted = (int, float) if hint is float else hint
    if isinstance(value, bool) and hint is not bool or not isinstance(value, accepted):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return hint(value)
