"""Keep the tables of docs/reference.md in step with the dataclasses that read the JSON configs.

    python tools/write_config_tables.py

A table is between `<!-- keys of module:Class -->` and `<!-- end -->`; one row per field: its type,
its default and its help text or comment. What follows `; paper: ` there is the paper's value.
"""

import dataclasses
import importlib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
_TABLE = re.compile(r"(<!-- keys of (\S+):(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIELD = re.compile(r"^    (\w+):.*?(?:  # (.*))?$", re.MULTILINE)
_PAPER = "; paper: "
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true/false", dict: "object"}


def updated(page: str) -> str:
    """The page with all of its tables regenerated."""
    return _TABLE.sub(lambda m: f"{m[1]}{_table(_load(m[2], m[3]))}{m[4]}", page)


def _load(module: str, name: str) -> type:
    return getattr(importlib.import_module(module), name)


def _table(cls: type) -> str:
    rows = list(_rows(cls))
    has_paper = any(paper for *_, paper in rows)
    head = ["key", "type", "default", "meaning"] + ["paper"] * has_paper
    lines = [head, ["---"] * len(head), *(row[: len(head)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(cls: type) -> Iterator[list[str]]:
    hints = typing.get_type_hints(cls)
    comments = _comments(cls)
    for field in dataclasses.fields(cls):
        text = field.metadata.get("help", comments.get(field.name, "")).replace("|", "\\|")
        meaning, _, paper = text.partition(_PAPER)
        yield [f"`{field.name}`", _type(hints[field.name]), _default(field), meaning, paper]


def _comments(cls: type) -> dict[str, str]:
    """Each field's comment."""
    return dict(_FIELD.findall(inspect.getsource(cls)))


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if origin is typing.Literal:
        return " or ".join(f"`{name}`" for name in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return "section below"
    return _WORDS[origin or hint]


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_json(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return "needed"
    made = field.default_factory()
    return "its defaults" if dataclasses.is_dataclass(made) else f"`{_json(made)}`"


def _json(value: Any) -> str:
    """A default as it is written in JSON."""
    return json.dumps(value)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
