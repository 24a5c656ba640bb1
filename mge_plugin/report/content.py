"""What a result page says. Strings are plain text; the page escapes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Clip:
    """Audio with a player, a spectrogram and its levels."""

    title: str
    caption: str
    audio: np.ndarray  # (channels, samples), floats, 1.0 is full scale
    sample_rate: int  # Hz
    prompt: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many as there are columns; a column of numbers is aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.caption!r}: row {list(row)} has {len(row)} cells, "
                    f"expected {len(self.columns)}, one for each of {list(self.columns)}"
                )


@dataclass(frozen=True)
class Section:
    """A heading, text, the clips as cards, then the tables."""

    title: str
    text: str = ""
    clips: Sequence[Clip] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """`notice` is what nobody may overlook; `facts` are short, such as {"seed": "7"}."""

    title: str
    lead: str = ""
    notice: str | None = None
    sections: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
