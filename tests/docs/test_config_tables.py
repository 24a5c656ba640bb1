"""docs/reference.md says what the code reads, and every link of the docs leads somewhere."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import write_config_tables as tables

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*/*.md")])


@dataclass(frozen=True)
class Example:
    seed: int
    share: float = 0.5  # a share, 0 | 1; paper: 0.25
    names: tuple[str, ...] | None = field(default=None, metadata={"help": "names of stems"})


def test_the_reference_is_up_to_date():
    page = tables.PAGE.read_text()
    assert tables.updated(page) == page, "run: python tools/write_config_tables.py"


def test_a_row_is_a_field():
    assert list(tables._rows(Example)) == [
        ["`seed`", "whole number", "needed", "", ""],
        ["`share`", "number", "`0.5`", "a share, 0 \\| 1", "0.25"],
        ["`names`", "list of text", "`null`", "names of stems", ""],
    ]


def anchors(page):
    """GitHub's anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
