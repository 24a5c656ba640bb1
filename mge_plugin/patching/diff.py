"""Unified diffs of one file that fit to the byte or not at all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

_RANGES = re.compile(rb"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


class MisfitError(ValueError):
    """A file is not what a diff expects from `line` on."""

    def __init__(self, line: int, expected: bytes | None, found: bytes | None) -> None:
        super().__init__(f"line {line} is {_shown(found)}, expected {_shown(expected)}")
        self.line = line


@dataclass(frozen=True)
class Hunk:
    """Lines before and after, with their line ends, and where they begin in the file."""

    old_start: int  # 0 is the first line
    new_start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    ends_file: bool  # nothing follows

    def reversed(self) -> "Hunk":
        """The hunk that undoes this one."""
        return Hunk(self.new_start, self.old_start, self.new, self.old, self.ends_file)

    def replace(self, lines: list[bytes], line_end: bytes) -> None:
        """Put the new lines in the place of the old ones; MisfitError unless they are there."""
        old, new = ([line.replace(b"\n", line_end) for line in s] for s in (self.old, self.new))
        place = slice(self.old_start, None if self.ends_file else self.old_start + len(old))
        pairs = zip_longest(old, lines[place])
        for number, (expected, found) in enumerate(pairs, self.old_start + 1):
            if found != expected:
                raise MisfitError(number, expected, found)
        lines[place] = new


@dataclass(frozen=True)
class Diff:
    """What changes in one file."""

    path: str  # from the folder that the diff is for, with slashes
    hunks: tuple[Hunk, ...]

    def reversed(self) -> "Diff":
        """The diff that undoes this one."""
        return Diff(self.path, tuple(hunk.reversed() for hunk in self.hunks))

    def apply(self, content: bytes) -> bytes:
        """The changed content; MisfitError unless each hunk fits exactly where it says.

        A file with Windows' line ends keeps them.
        """
        line_end = b"\r\n" if b"\r\n" in content else b"\n"
        lines = content.splitlines(keepends=True)
        for hunk in reversed(self.hunks):  # from the end, so that the other hunks' places stay
            hunk.replace(lines, line_end)
        return b"".join(lines)


def parse_diff(text: bytes) -> Diff:
    """Read a unified diff of one existing file, as `diff -u` and git write it."""
    lines = text.replace(b"\r\n", b"\n").splitlines(keepends=True)
    names = [line[4:].strip().decode() for line in lines if line.startswith(b"+++ ")]
    starts = [number for number, line in enumerate(lines) if _RANGES.match(line)]
    if len(names) != 1 or not starts:
        raise ValueError(f"expected a unified diff of one file, found {len(names)}: {names}")
    ends = [*starts[1:], len(lines)]
    hunks = tuple(_parse_hunk(lines[a:b]) for a, b in zip(starts, ends, strict=True))
    return Diff(names[0].partition("/")[2], hunks)


def _parse_hunk(lines: Sequence[bytes]) -> Hunk:
    old_start, new_start = map(int, _RANGES.match(lines[0]).groups())
    body: list[bytes] = []
    for line in lines[1:]:
        if line.startswith(b"\\"):  # "\ No newline at end of file" is said of the line before
            body[-1] = body[-1].removesuffix(b"\n")
        else:
            body.append(line)
    old = tuple(line[1:] for line in body if line[:1] in b" -")
    new = tuple(line[1:] for line in body if line[:1] in b" +")
    ends_file = not body[-1].startswith(b" ")  # else the lines of context would follow
    return Hunk(old_start - 1, new_start - 1, old, new, ends_file)


def _shown(line: bytes | None) -> str:
    return "the end of the file" if line is None else repr(line.decode(errors="backslashreplace"))
