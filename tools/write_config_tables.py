"""Keep the tables of JSON keys in the docs in step with the dataclasses that read them.

    python tools/write_config_tables.py

A table stands in a page between `<!-- keys of module:Class -->` and `<!-- end -->`; a row is a
field: its type, its default and its comment. What follows `; paper: ` in a comment is the paper's
value.
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

DOCS = Path(__file__).parents[1] / "docs"
_TABLE = re.compile(r"(<!-- keys of (\S+):(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIELD = re.compile(r"^    (\w+):.*?(?:  # (.*))?$", re.MULTILINE)
_PAPER = "; paper: "
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true/false", dict: "object"}


def updated(page: str) -> str:
    """The page with every table in it written anew."""
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
        meaning, _, paper = comments.get(field.name, "").partition(_PAPER)
        yield [f"`{field.name}`", _type(hints[field.name]), _default(field), meaning, paper]


def _comments(cls: type) -> dict[str, str]:
    """Each field's comment, without what would end a cell of the table."""
    found = _FIELD.findall(inspect.getsource(cls))
    return {name: comment.replace("|", "\\|") for name, comment in found}


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _type(next(a for a in arguments if a is not type(None)))
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


def pages() -> list[Path]:
    """The pages that hold a table."""
    return [path for path in sorted(DOCS.glob("*.md")) if _TABLE.search(path.read_text())]


if __name__ == "__main__":
    for path in pages():
        path.write_text(updated(path.read_text()))
