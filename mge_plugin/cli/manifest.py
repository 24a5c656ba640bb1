"""Manifests of the tasks: a .jsonl file with a song, or a result to make, a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mge_plugin.config import ConfigError, found, parse_section
from mge_plugin.inference.request import check_prompt, check_seconds, check_seed


@dataclass(frozen=True, kw_only=True)
class NewLine:
    """What a line may say of a result that is made from nothing."""

    seconds: float | None = None
    prompt: Any = None  # a text or several
    negative: str | None = None
    seed: int | None = None
    name: str | None = None  # in the results' names

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        if self.seed is not None:
            check_seed(self.seed)
        texts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if self.prompt is not None and not (texts and all(isinstance(t, str) for t in texts)):
            raise ConfigError(f"prompt: expected a text or a list of them, found {self.prompt!r}")
        for text in self.texts:
            check_prompt(text)

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt or prompts, none where the command line's are meant."""
        if self.prompt is None:
            return ()
        return tuple(self.prompt) if isinstance(self.prompt, list) else (self.prompt,)


@dataclass(frozen=True, kw_only=True)
class SongLine:
    """What a line says of a song."""

    audio: str  # a path under the manifest's folder
    prompt: Any = None
    negative: str | None = None
    seed: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        windows, posix = PureWindowsPath(self.audio), PurePosixPath(self.audio)
        if windows.anchor or posix.is_absolute() or ".." in {*windows.parts, *posix.parts}:
            raise ConfigError(
                f"audio: expected a path under the manifest's folder, found {self.audio!r}"
            )
        self.asked()

    def asked(self) -> NewLine:
        """All but the song."""
        return NewLine(prompt=self.prompt, negative=self.negative, seed=self.seed, name=self.name)


def read_songs(manifest: Path) -> list[tuple[str, Path, NewLine]]:
    """(file:line, song, what is asked of it alone); a song that leads out of the folder raises."""
    songs = []
    for where, line in _lines(manifest, SongLine):
        path = manifest.parent / line.audio
        if not path.resolve().is_relative_to(manifest.parent.resolve()):
            raise ConfigError(
                f"{where}: audio: {line.audio} is a link that leads out of the folder"
            )
        songs.append((where, path, line.asked()))
    return songs


def read_new(manifest: Path) -> list[tuple[str, NewLine]]:
    """(file:line, what is asked) of results that are made from nothing."""
    return list(_lines(manifest, NewLine))


def _lines(manifest: Path, cls: type) -> Iterator[tuple[str, Any]]:
    """(file:line, section) of each line that is not empty; no line at all raises ConfigError."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{manifest}: cannot be read ({error})") from error
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{manifest}: expected a JSON object a line, found none")
    for number, line in numbered:
        where = f"{manifest}:{number}"
        yield where, _section(cls, line, where)


def _section(cls: type, line: str, where: str) -> Any:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
        raise ConfigError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {found(values)}")
    try:
        return parse_section(cls, values, where)
    except ConfigError:
        raise
    except ValueError as error:  # what a value cannot be, said without its place
        raise ConfigError(f"{where}: {error}") from error
