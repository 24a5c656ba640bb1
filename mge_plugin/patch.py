"""A patch of `patches/` in its place: is it in, put it in, take it out.

Where a stable-audio-tools is, and which version, without importing it.

Unified diffs of one file that fit to the byte or not at all.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

from mge_plugin import sat as upstream
from mge_plugin.files import shipped_file, written_whole

_PACKAGE = "stable_audio_tools"
_BUILD_FILES = ("setup.py", "pyproject.toml")  # where a clone says its version
_NAME = re.compile(r"""\bname\s*=\s*["']stable[-_]audio[-_]tools["']""")
_VERSION = re.compile(r"""(?<![\w-])version\s*=\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Place:
    """The folder that holds the package (a clone, or site-packages), and the package's version."""

    root: Path
    version: str


def find_place(path: Path | None = None) -> Place:
    """A clone or a package's folder, the installed package if None; ValueError if it is neither."""
    root = _installed() if path is None else _root(path)
    version = _cloned_version(root) or _installed_version(root)
    if version is None and path is None:
        version = upstream.sat_version()
    if version is None:
        raise ValueError(
            f"{root / _PACKAGE}: of which version it is says neither {' nor '.join(_BUILD_FILES)} "
            "nor an installation's metadata beside it"
        )
    return Place(root, version)


def _installed() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("stable-audio-tools is not installed here: name the folder of a clone")
    return Path(spec.origin).parents[1]


def _root(path: Path) -> Path:
    """The folder that holds the package, whichever of the two is named."""
    if (path / _PACKAGE / "__init__.py").is_file():
        return path
    folder = path.resolve()
    if folder.name == _PACKAGE and (folder / "__init__.py").is_file():
        return folder.parent
    found = "a folder without it" if path.is_dir() else "a file" if path.exists() else "nothing"
    raise ValueError(f"{path}: expected the folder {_PACKAGE} or a clone with it, found {found}")


def _cloned_version(root: Path) -> str | None:
    for name in _BUILD_FILES:
        file = root / name
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if _NAME.search(text) and (version := _VERSION.search(text)):
            return version[1]
    return None


def _installed_version(root: Path) -> str | None:
    found = metadata.distributions(name=upstream.DISTRIBUTION, path=[str(root)])
    return next((distribution.version for distribution in found), None)


_RANGES = re.compile(rb"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


class MisfitError(ValueError):
    """A file is not what a diff expects from `line` on."""

    def __init__(self, line: int, expected: bytes | None, found: bytes | None) -> None:
        super().__init__(f"line {line} is {_shown(found)}, expected {_shown(expected)}")
        self.line = line


@dataclass(frozen=True)
class _Hunk:
    """Lines before and after, with their line ends, and where they begin in the file."""

    old_start: int  # 0 is the first line
    new_start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    ends_file: bool  # nothing follows

    def reversed(self) -> "_Hunk":
        """The hunk that undoes this one."""
        return _Hunk(self.new_start, self.old_start, self.new, self.old, self.ends_file)

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
class _Diff:
    """What changes in one file."""

    path: str  # from the folder that the diff is for, with slashes
    hunks: tuple[_Hunk, ...]

    def reversed(self) -> "_Diff":
        """The diff that undoes this one."""
        return _Diff(self.path, tuple(hunk.reversed() for hunk in self.hunks))

    def apply(self, content: bytes) -> bytes:
        """The changed content; MisfitError unless each hunk fits exactly where it says.

        A file with Windows' line ends keeps them.
        """
        line_end = b"\r\n" if b"\r\n" in content else b"\n"
        lines = content.splitlines(keepends=True)
        for hunk in reversed(self.hunks):  # from the end, so that the other hunks' places stay
            hunk.replace(lines, line_end)
        return b"".join(lines)


def parse_diff(text: bytes) -> _Diff:
    """Read a unified diff of one existing file, as `diff -u` and git write it."""
    lines = text.replace(b"\r\n", b"\n").splitlines(keepends=True)
    names = [line[4:].strip().decode() for line in lines if line.startswith(b"+++ ")]
    starts = [number for number, line in enumerate(lines) if _RANGES.match(line)]
    if len(names) != 1 or not starts:
        raise ValueError(f"expected a unified diff of one file, found {len(names)}: {names}")
    ends = [*starts[1:], len(lines)]
    hunks = tuple(_parse_hunk(lines[a:b]) for a, b in zip(starts, ends, strict=True))
    return _Diff(names[0].partition("/")[2], hunks)


def _parse_hunk(lines: Sequence[bytes]) -> _Hunk:
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
    return _Hunk(old_start - 1, new_start - 1, old, new, ends_file)


def _shown(line: bytes | None) -> str:
    return "the end of the file" if line is None else repr(line.decode(errors="backslashreplace"))


_PATCH_PREFIX = "stable-audio-tools-"  # patches/stable-audio-tools-VERSION.patch


class State(str, Enum):
    """What a file is to a patch."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"


@dataclass(frozen=True)
class Patch:
    """A diff and the file that it is for."""

    file: Path
    version: str  # of stable-audio-tools
    diff: _Diff

    def state(self) -> State:
        """Whether it is applied; ValueError if the file is neither as SAT has it nor patched."""
        return self._examine(self.file.read_bytes())[0]

    def apply(self) -> bool:
        """Put it in; False if it is in already."""
        return self._bring_to(State.APPLIED)

    def revert(self) -> bool:
        """Take it out; False if it is not in."""
        return self._bring_to(State.NOT_APPLIED)

    def _bring_to(self, wanted: State) -> bool:
        state, other = self._examine(self.file.read_bytes())
        if state is not wanted:
            _rewrite(self.file, other)
        return state is not wanted

    def _examine(self, content: bytes) -> tuple[State, bytes]:
        """The state of a file's content, and the content in the other state."""
        fits = {State.NOT_APPLIED: self.diff, State.APPLIED: self.diff.reversed()}
        misfits = []
        for state, diff in fits.items():
            try:
                return state, diff.apply(content)
            except MisfitError as misfit:
                misfits.append(misfit)
        furthest = max(misfits, key=lambda misfit: misfit.line)  # tells the most of the two
        raise ValueError(
            f"{self.file}: neither as stable-audio-tools {self.version} has it nor patched: "
            f"{furthest}"
        )


def find_patch(path: Path | None = None) -> Patch:
    """The patch for a clone, for a package's folder or (None) for the installed package."""
    place = find_place(path)
    diff = parse_diff(_patch_file(place).read_bytes())
    return Patch(place.root / diff.path, place.version, diff)


def patch_files() -> dict[str, Path]:
    """Version of stable-audio-tools -> the patch for it."""
    folder = shipped_file("patches/README.md").parent
    files = sorted(folder.glob(f"{_PATCH_PREFIX}*.patch"))
    return {file.stem.removeprefix(_PATCH_PREFIX): file for file in files}


def _patch_file(place: Place) -> Path:
    files = patch_files()
    if place.version not in files:
        raise ValueError(
            f"{place.root}: stable-audio-tools {place.version} is a version without a patch, "
            f"there is one for {' and '.join(files)}"
        )
    return files[place.version]


def _rewrite(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, with the mode that it had."""
    try:
        with written_whole(file) as partial:
            partial.write_bytes(content)
            shutil.copymode(file, partial)
    except OSError as error:
        raise OSError(
            f"{file}: left as it was, its folder cannot be written to ({error.strerror})"
        ) from error
