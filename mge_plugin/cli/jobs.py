"""SONG...: files, folders and manifests to songs.

Manifests of the tasks: a .jsonl file with a song, or a result to make, a line.

What is to be made: a task on a song or on none, and the name of its result.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mge_plugin.cli.app import complain
from mge_plugin.cli.options import PartOptions
from mge_plugin.cli.tasks import Asked, Words
from mge_plugin.config import ConfigError, found, parse_section
from mge_plugin.data.corpora.folder import AUDIO
from mge_plugin.data.corpora.reader import MAC_COMPANIONS
from mge_plugin.files import distinct_paths, output_name
from mge_plugin.inference.request import Sampling, check_seconds


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
            Sampling(seed=self.seed)
        texts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if self.prompt is not None and not (texts and all(isinstance(t, str) for t in texts)):
            raise ConfigError(f"prompt: expected a text or a list of them, found {self.prompt!r}")
        if not all(text.strip() for text in self.texts):
            raise ConfigError("prompt: expected words such as 'the sound of the bass', found none")

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt or prompts, none where the command line's are meant."""
        if self.prompt is None:
            return ()
        return tuple(self.prompt) if isinstance(self.prompt, list) else (self.prompt,)


@dataclass(frozen=True, kw_only=True)
class _SongLine:
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


def _read_songs(manifest: Path) -> list[tuple[str, Path, NewLine]]:
    """(file:line, song, what is asked of it alone); a song that leads out of the folder raises."""
    songs = []
    for where, line in _lines(manifest, _SongLine):
        path = manifest.parent / line.audio
        if not path.resolve().is_relative_to(manifest.parent.resolve()):
            raise ConfigError(
                f"{where}: audio: {line.audio} is a link that leads out of the folder"
            )
        songs.append((where, path, line.asked()))
    return songs


def _read_new(manifest: Path) -> list[tuple[str, NewLine]]:
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


@dataclass(frozen=True)
class Entry:
    """A song that was named, and what a manifest says of it."""

    path: Path
    folder: Path = Path()  # where its results go, under --out
    line: NewLine = field(default_factory=NewLine)
    where: str | None = None  # file:line of the manifest


def find_songs(arguments: Sequence[Path], out: Path) -> list[Entry]:
    """The songs in the order of the arguments; what of a folder is passed over is said."""
    entries: list[Entry] = []
    for argument in arguments:
        if argument.is_dir():
            entries += _in_folder(argument, out)
        elif argument.suffix.lower() == ".jsonl":
            entries += [
                Entry(path, line=line, where=where) for where, path, line in _read_songs(argument)
            ]
        else:
            entries.append(Entry(argument))
    return entries


def _in_folder(root: Path, out: Path) -> list[Entry]:
    if out.exists() and out.samefile(root):
        raise ConfigError(
            f"--out: {out} is the songs' own folder, where results would be taken for songs; "
            "choose another, it may be inside"
        )
    songs, passed_over = _scan(root, out.resolve())
    said = ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    if not songs:
        raise ConfigError(f"{root}: expected audio files, found none" + (said and f" ({said})"))
    if said:
        complain(f"{root}: passed over: {said}")
    return [Entry(path, path.parent.relative_to(root)) for path in songs]


def _scan(root: Path, out: Path) -> tuple[list[Path], Counter[str]]:
    """The audio files under a folder in order, and how much else there is, by its kind."""
    songs, others = [], Counter()

    def unreadable(_: OSError) -> None:
        others["folders that cannot be read"] += 1

    for folder, folders, files in os.walk(root, onerror=unreadable):
        kinds = {name: _kind_of_folder(Path(folder, name), out) for name in folders}
        folders[:] = [name for name, kind in kinds.items() if kind is None]
        others.update(kind for kind in kinds.values() if kind)
        for path in (Path(folder, name) for name in files):
            if kind := _kind_of_file(path):
                others[kind] += 1
            else:
                songs.append(path)
    return sorted(songs), others


def _kind_of_folder(path: Path, out: Path) -> str | None:
    """Why a folder is not looked into; None if it is."""
    if _is_hidden(path):
        return "hidden"
    if path.is_symlink():
        return "linked folders"
    return "folder of results" if path.resolve() == out else None


def _kind_of_file(path: Path) -> str | None:
    """Why a file is no song; None if it is one."""
    if _is_hidden(path):
        return "hidden"
    return None if path.suffix.lower() in AUDIO else "not audio"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == MAC_COMPANIONS


@dataclass(frozen=True)
class Job:
    """One result to make."""

    task: str
    prompts: tuple[Words, ...]
    base: Path  # the result's files begin with it: {base}_source.wav, {base}.json
    song: Path | None = None
    negative: str | None = None
    seed: int = 0
    seconds: float | None = None
    keep: Path | None = None
    redo: tuple[tuple[float, float], ...] = ()  # seconds of `keep` that are made anew
    init: Path | None = None  # what it begins from
    init_level: float | None = None

    @property
    def label(self) -> str:
        """What it is called on the terminal."""
        return str(self.song or self.base.name)

    @property
    def key(self) -> str:
        """Whose result it is: the same for the same song and words only, on any command line."""
        song = None if self.song is None else str(self.song.resolve())
        words = [(w.text, str(w.example), w.others) for w in self.prompts]
        return repr((song, words, self.negative, self.seed, self.seconds))


def song_jobs(
    asked: Asked, entries: Sequence[Entry], seed: int, out: Path, new: tuple[Words, ...] = ()
) -> list[Job]:
    """A job for each song; `new` is what a replacement is to be."""
    jobs = []
    for entry in entries:
        mine = asked.instead(entry.line.texts, entry.line.negative)
        prompts = _prompts(mine, entry.where)
        names = [entry.line.name or entry.path.stem, _joined(prompts) or "unconditional"]
        if new:
            names += ["with", _joined(new)]
        folder = Path(*(output_name(part) for part in entry.folder.parts))
        base = out / folder / output_name("_".join(names))
        own_seed = seed if entry.line.seed is None else entry.line.seed
        jobs.append(Job(asked.task, (*prompts, *new), base, entry.path, mine.negative, own_seed))
    return _with_own_names(jobs)


def new_jobs(
    asked: Asked, manifest: Path | None, seconds: float | None, seed: int, number: int, out: Path
) -> list[Job]:
    """Jobs of results that are made from nothing, `number` of each with seeds from `seed` up."""
    check_seconds(seconds)
    lines: list[tuple[str | None, NewLine]] = [(None, NewLine())]
    if manifest is not None:
        lines = [*_read_new(manifest)]
    jobs = []
    for where, line in lines:
        mine = asked.instead(line.texts, line.negative)
        prompts = _prompts(mine, where)
        first = seed if line.seed is None else line.seed
        for own_seed in range(first, first + number):
            Sampling(seed=own_seed)
            name = line.name or _joined(prompts) or "unconditional"
            base = out / output_name(name, f"_seed{own_seed}")
            own_seconds = seconds if line.seconds is None else line.seconds
            jobs.append(Job(asked.task, prompts, base, None, mine.negative, own_seed, own_seconds))
    return _with_own_names(jobs)


def partly(jobs: Sequence[Job], options: PartOptions) -> list[Job]:
    """The jobs with what is kept or begun from, if there is one; of one song and one prompt."""
    spans = options.spans()
    given = {"--keep": options.keep, "--init": options.init}
    for name in (name for name, path in given.items() if path is not None):
        _check_part(name, jobs)
    if options.init is None:
        return [replace(job, keep=options.keep, redo=spans) for job in jobs]
    if not 0 < options.init_level <= 1:
        raise ValueError(f"--init-level: expected over 0 and up to 1, found {options.init_level}")
    begun = {"init": options.init, "init_level": options.init_level}
    return [replace(job, keep=options.keep, redo=spans, **begun) for job in jobs]


def _check_part(name: str, jobs: Sequence[Job]) -> None:
    songs = {job.song for job in jobs}
    if len(songs) > 1:
        raise ValueError(f"{name}: is a track of one song, found {len(songs)} songs")
    for job in jobs:
        if len(job.prompts) > 1:
            raise ValueError(f"{name}: one track is made, found {len(job.prompts)} prompts")
        if job.seconds is not None:
            raise ValueError(f"--seconds: with {name}, that track says how long")


def _prompts(asked: Asked, where: str | None) -> tuple[Words, ...]:
    try:
        return asked.prompts()
    except ValueError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def _joined(prompts: Iterable[Words]) -> str:
    return "_".join(words.name for words in prompts if words.name)


def _with_own_names(jobs: Sequence[Job]) -> list[Job]:
    """Jobs of which no two write one file; what was asked twice is made once."""
    once = list({job.key: job for job in jobs}.values())
    if len(once) < len(jobs):
        complain(f"asked for more than once, made once: {len(jobs) - len(once)}")
    bases = distinct_paths([job.base for job in once], [job.key for job in once])
    return [replace(job, base=base) for job, base in zip(once, bases, strict=True)]
