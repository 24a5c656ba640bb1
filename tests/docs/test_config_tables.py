"""The tables of JSON keys in the docs say what the code reads."""

from dataclasses import dataclass

import pytest
import write_config_tables as tables


@dataclass(frozen=True)
class Example:
    seed: int
    share: float = 0.5  # a share, 0 | 1; paper: 0.25
    names: tuple[str, ...] | None = None


def test_the_docs_have_such_tables():
    assert {path.name for path in tables.pages()} >= {"model.md", "training.md"}


@pytest.mark.parametrize("path", tables.pages(), ids=lambda path: path.name)
def test_a_page_is_up_to_date(path):
    page = path.read_text()
    assert tables.updated(page) == page, "run: python tools/write_config_tables.py"


def test_a_row_is_a_field():
    assert list(tables._rows(Example)) == [
        ["`seed`", "whole number", "needed", "", ""],
        ["`share`", "number", "`0.5`", "a share, 0 \\| 1", "0.25"],
        ["`names`", "list of text", "`null`", "", ""],
    ]
