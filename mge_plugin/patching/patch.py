"""A patch of `patches/` in its place: is it in, put it in, take it out."""

import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mge_plugin.files import shipped_file, written_whole
from mge_plugin.patching.diff import Diff, MisfitError, parse_diff
from mge_plugin.patching.places import Place, find_place

PATCH_PREFIX = "stable-audio-tools-"  # patches/stable-audio-tools-VERSION.patch


class State(str, Enum):
    """What a file is to a patch."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"


@dataclass(frozen=True)
class Patch:
    """A diff and the file that it is for."""

    file: Path
    version: str  # of stable-audio-tools
    diff: Diff

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
    files = sorted(folder.glob(f"{PATCH_PREFIX}*.patch"))
    return {file.stem.removeprefix(PATCH_PREFIX): file for file in files}


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
