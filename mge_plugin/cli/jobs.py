"""What is to be made: a task on a song or on none, and the name of its result."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mge_plugin.cli.asked import Asked, Words
from mge_plugin.cli.console import complain
from mge_plugin.cli.manifest import NewLine, read_new
from mge_plugin.cli.options import PartOptions
from mge_plugin.cli.songs import Entry
from mge_plugin.config import ConfigError
from mge_plugin.files import distinct_paths, output_name
from mge_plugin.inference.request import check_seconds, check_seed


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
        lines = [*read_new(manifest)]
    jobs = []
    for where, line in lines:
        mine = asked.instead(line.texts, line.negative)
        prompts = _prompts(mine, where)
        first = seed if line.seed is None else line.seed
        for own_seed in range(first, first + number):
            check_seed(own_seed)
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
