"""From a command line to jobs: songs, folders and manifests, their prompts, the results' names.

    mge extract song.mp3 bass drums    song_bass.wav, song_drums.wav, song_bass_drums_residual.wav,
                                       song_bass_drums.json
    --layout folders                   song/bass.wav, song/drums.wav, song/bass_drums_residual.wav,
                                       song/bass_drums.json

A manifest is a .jsonl file with one song per line: audio (a path beside it) and, if they differ
from the command line's, prompt, negative, seed and name. Nothing here imports torch.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from unicodedata import normalize

from mge_plugin.cli.app import complain, pairs
from mge_plugin.cli.options import (
    ExtractOptions,
    NewOptions,
    OutputOptions,
    PartOptions,
    PromptOptions,
)
from mge_plugin.config import ConfigError, choose, found, parse_section
from mge_plugin.data.audio import audio_info
from mge_plugin.data.corpora.folder import AUDIO
from mge_plugin.data.corpora.reader import MAC_COMPANIONS
from mge_plugin.files import checkpoint_fingerprint, distinct_paths, output_name
from mge_plugin.inference.request import Sampling, check_seconds
from mge_plugin.models.hub import Card
from mge_plugin.prompts import TrackPrompt, label_prompt, prompt_names
from mge_plugin.tracks import TASKS, Track

Prompt = str | dict[str, Any] | None  # as `mge_plugin.prompts` has them; "audio" is a path here
_MANIFEST = ".jsonl"
_OTHER_TRACKS = ("residual", "mixture", "submixture", "removed")  # of results, besides sources


@dataclass(frozen=True)
class Job:
    """One result to compute."""

    task: str
    prompts: tuple[Prompt, ...]
    base: Path  # of the JSON and of tracks that are no sources: {base}.json, {base}_residual.wav
    stem: str  # start of the sources' file names, in the same folder: {stem}bass.wav
    song: Path | None = None
    negative: str | None = None
    seed: int = 0
    seconds: float | None = None
    new_prompt: Prompt = None  # of a replacement
    keep: Path | None = None
    redo: tuple[tuple[float, float], ...] = ()  # seconds of `keep` that are generated again
    init: Path | None = None
    init_level: float | None = None
    chain: bool = False  # each source from the residual of the one before
    minus: bool = False  # only the residual is written
    all: bool = False  # sources that are not in the song are not written

    @property
    def label(self) -> str:
        """Its name on the terminal."""
        return str(self.song or self.base.name)

    @property
    def json_path(self) -> Path:
        """The JSON of its result."""
        return self.base.with_name(f"{self.base.name}.json")

    @property
    def has_example(self) -> bool:
        """Whether a prompt has reference audio."""
        mappings = [prompt for prompt in self.prompts if isinstance(prompt, dict)]
        return any(isinstance(part, dict) for prompt in mappings for part in prompt.values())

    @property
    def key(self) -> str:
        """The same for the same request only, whatever its files are called."""
        song = self.song and self.song.resolve()
        return repr(replace(self, base=Path(), stem="", song=song))

    @property
    def claims(self) -> set[str]:
        """All paths that it may write, as a file system may compare them."""
        names = {self.file_name(track) for track in (*self.sources, *_OTHER_TRACKS)}
        return {normalize("NFC", f"{self.base.parent}/{name}").casefold() for name in names}

    def with_long_names(self) -> "Job":
        """The job with its base in the names of all its files."""
        return replace(self, stem=f"{self.base.name}_")

    @property
    def sources(self) -> list[str]:
        """The names of the sources of its result, none if it has none."""
        if TASKS[self.task].prompted is not Track.SOURCE:
            return []
        return _names(self.task, [self.new_prompt] if self.new_prompt else self.prompts)

    def file_name(self, track: str) -> str:
        """A track's file name without its ending."""
        if self.minus:
            return self.base.name
        start = self.stem if track in self.sources else f"{self.base.name}_"
        return f"{start}{output_name(track)}"

    def described(self) -> dict[str, Any]:
        """All that decides its result, as plain data: files by their fingerprints."""
        prompts = [*self.prompts, *([self.new_prompt] if self.new_prompt else [])]
        values = {
            "task": self.task,
            "prompts": [_described(prompt, self.task) for prompt in prompts],
            "negative": self.negative,
            "seed": self.seed,
            "seconds": self.seconds,
            "song": self.song and checkpoint_fingerprint(self.song),
            "keep": self.keep and checkpoint_fingerprint(self.keep),
            "redo": self.redo,
            "init": self.init and checkpoint_fingerprint(self.init),
            "init_level": self.init_level,
        }
        return values | {name: True for name in ("chain", "minus", "all") if getattr(self, name)}

    def check_files(self) -> None:
        """By their headers: a kept track fits its song, and --redo is inside of it."""
        song = None if self.song is None else _form(self.song)
        for name, path in (("--keep", self.keep), ("--init", self.init)):
            if path is None:
                continue
            rate, frames = _form(path)
            if song is not None and song != (rate, frames):
                raise ValueError(
                    f"{name}: expected {song[1]} samples at {song[0]} Hz as {self.song} has, "
                    f"found {frames} at {rate} Hz in {path}"
                )
            for start, end in self.redo if path is self.keep else ():
                if start >= frames / rate:
                    raise ValueError(
                        f"--redo: expected seconds of {path}, which has {frames / rate:.2f}, "
                        f"found {start:g} to {end:g}"
                    )


def _form(path: Path) -> tuple[int, int]:
    """(sample rate, samples) of a regular file: to open a pipe or a device may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: not a regular file")
    return audio_info(path)


def _names(task: str, prompts: Sequence[Prompt]) -> list[str]:
    """A name for each prompt: "bass" for "The sound of the bass"."""
    texts = [_text(prompt, TASKS[task].prompted.label) for prompt in prompts]
    return prompt_names([{Track.SOURCE: TrackPrompt(text)} for text in texts], _OTHER_TRACKS)


def _text(prompt: Prompt, label: str) -> str:
    """The text of the prompt of the track `label`, or what comes closest: an example's name."""
    if not isinstance(prompt, dict):
        return prompt or ""
    own = prompt.get(label, " ".join(map(str, prompt.values())))
    return own if isinstance(own, str) else own.get("text") or own["audio"].stem


def _described(prompt: Prompt, task: str) -> Any:
    """A prompt as plain data, an example by its content."""
    if not isinstance(prompt, dict):
        return prompt
    others = dict(prompt)
    own = others.pop(TASKS[task].prompted.label, None)
    if not isinstance(own, dict):
        return {"text": own, **others}
    example = {"example": checkpoint_fingerprint(own["audio"])}
    return {
        "text": own.get("text"),
        **others,
        **example,
        "text_weight": own.get("text_weight", 0.5),
    }


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a manifest; what it lacks is the command line's."""

    audio: str | None = None  # a path under the manifest's folder
    prompt: Any = None  # a text or several
    negative: str | None = None
    seed: int | None = None
    seconds: float | None = None
    name: str | None = None  # start of the results' names

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        if self.seed is not None:
            Sampling(seed=self.seed)
        if self.prompt is not None and not (
            self.texts and all(isinstance(text, str) and text.strip() for text in self.texts)
        ):
            raise ConfigError(f"prompt: expected a text or a list of them, found {self.prompt!r}")
        if self.audio is not None:
            windows, posix = PureWindowsPath(self.audio), PurePosixPath(self.audio)
            parts = {*windows.parts, *posix.parts}
            if windows.anchor or posix.is_absolute() or ".." in parts:
                raise ConfigError(
                    f"audio: expected a path under the manifest's folder, found {self.audio!r}"
                )

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts of this line."""
        if self.prompt is None:
            return ()
        return tuple(self.prompt) if isinstance(self.prompt, list) else (self.prompt,)


class _Item(NamedTuple):
    """A song to process."""

    path: Path
    folder: Path = Path()  # of its results, under --out
    line: _Line = _Line()
    where: str | None = None  # file:line of the manifest


def split_words(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Songs, which come first, and prompts; all that exists or looks like a path is a song."""
    songs: list[Path] = []
    words: list[str] = []
    for argument in arguments:
        path = Path(argument)
        is_path = path.suffix.lower() in (*AUDIO, _MANIFEST) or len(path.parts) > 1
        if not songs or is_path or path.exists():
            songs.append(path)
        else:
            words.append(argument)
    return songs, words


def find_songs(arguments: Sequence[Path], out: Path) -> list[_Item]:
    """The songs in the order of the arguments; files of a folder that are skipped are counted."""
    items: list[_Item] = []
    for argument in arguments:
        if argument.is_dir():
            items += _in_folder(argument, out)
        elif argument.suffix.lower() == _MANIFEST:
            items += _in_manifest(argument)
        else:
            items.append(_Item(argument))
    return items


def _in_manifest(manifest: Path) -> Iterator[_Item]:
    for where, line in _lines(manifest):
        if line.audio is None or line.seconds is not None:
            problem = (
                "expected audio, a path" if line.audio is None else "the song sets the seconds"
            )
            raise ConfigError(f"{where}: {problem}")
        path = manifest.parent / line.audio
        if not path.resolve().is_relative_to(manifest.parent.resolve()):
            raise ConfigError(
                f"{where}: audio: {line.audio} is a link that leads out of the folder"
            )
        yield _Item(path, line=line, where=where)


def _lines(manifest: Path) -> Iterator[tuple[str, _Line]]:
    """(file:line, section) of each line that is not empty; no line at all raises ConfigError."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{manifest}: cannot be read ({error})") from error
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{manifest}: expected one JSON object per line, found none")
    for number, line in numbered:
        where = f"{manifest}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
            raise ConfigError(f"{where}: not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a JSON object, found {found(values)}")
        yield where, parse_section(_Line, values, where)


def _in_folder(root: Path, out: Path) -> list[_Item]:
    if out.exists() and out.samefile(root):
        raise ConfigError(
            f"--out: {out} is the songs' own folder, where results would be taken for songs; "
            "choose another, it may be inside"
        )
    songs, skipped = _scan(root, out.resolve())
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    if not songs:
        raise ConfigError(f"{root}: expected audio files, found none" + (counts and f" ({counts})"))
    if counts:
        complain(f"{root}: skipped: {counts}")
    return [_Item(path, path.parent.relative_to(root)) for path in songs]


def _scan(root: Path, out: Path) -> tuple[list[Path], Counter[str]]:
    """The audio files under a folder in order, and how many entries are skipped, by reason."""
    songs: list[Path] = []
    skipped: Counter[str] = Counter()

    def unreadable(_: OSError) -> None:
        skipped["folders that cannot be read"] += 1

    for folder, folders, files in os.walk(root, onerror=unreadable):
        reasons = {name: _skipped_folder(Path(folder, name), out) for name in folders}
        folders[:] = [name for name, reason in reasons.items() if reason is None]
        skipped.update(reason for reason in reasons.values() if reason)
        for path in (Path(folder, name) for name in files):
            if reason := _skipped_file(path):
                skipped[reason] += 1
            else:
                songs.append(path)
    return sorted(songs), skipped


def _skipped_folder(path: Path, out: Path) -> str | None:
    """Why a folder is not searched; None if it is."""
    if _is_hidden(path):
        return "hidden"
    if path.is_symlink():
        return "linked folders"
    return "folder of results" if path.resolve() == out else None


def _skipped_file(path: Path) -> str | None:
    """Why a file is not a song; None if it is one."""
    if _is_hidden(path):
        return "hidden"
    if path.suffix.lower() not in AUDIO:
        return "not audio"
    return None if os.path.isfile(path) else "broken links, pipes or devices"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == MAC_COMPANIONS


class Prompts:
    """The prompts of a command line for one task."""

    def __init__(
        self,
        task: str,
        options: PromptOptions,
        words: Sequence[str],
        card: Card,
        extract: ExtractOptions | None = None,
        new_prompt: str | None = None,
    ) -> None:
        self.task, self.options, self.card = task, options, card
        self.others = pairs("--track-prompt", options.track_prompt, "TRACK=TEXT")
        self.texts = (*map(self._from_word, words), *options.prompt)
        self.modes: dict[str, Any] = {}
        if extract is not None:
            self._set_modes(extract)
        self.new_prompt: Prompt = None
        if new_prompt is not None:
            self.new_prompt = (
                {**self.others, self._label: new_prompt} if self.others else new_prompt
            )
            self._checked((self.new_prompt,))
        if not 0 <= options.text_weight <= 1:
            raise ValueError(f"text_weight: expected 0 to 1, found {options.text_weight}")
        for track in self.others:
            choose("--track-prompt", track, {t.label: t for t in Track})
            if track == self._label:
                raise ValueError(f"--track-prompt {track}: that is what --prompt is for")
        for path in options.example:
            _form(path)

    def _set_modes(self, extract: ExtractOptions) -> None:
        """Prompts from --minus or --all, in place of others."""
        self.modes = {"chain": extract.chain, "all": extract.all, "minus": bool(extract.minus)}
        if not (extract.minus or extract.all):
            return
        if self.texts or self.options.example or (extract.minus and extract.all):
            raise ValueError("--minus, --all: expected one of them and no prompts")
        if extract.all and not self.card.labels:
            raise ValueError("--all: the model's config has no list of labels; name prompts")
        self.texts = tuple(map(self._from_word, extract.minus or self.card.labels))

    @property
    def _label(self) -> str:
        return TASKS[self.task].prompted.label

    def _from_word(self, word: str) -> str:
        """A label becomes the prompt that the model was trained with."""
        is_label = word.casefold() in map(str.casefold, self.card.labels)
        single = TASKS[self.task].prompted is Track.SOURCE and len(word.split()) == 1
        return label_prompt(word) if is_label or single else word

    def negative(self, line: _Line) -> str | None:
        """The negative prompt for a line."""
        return self.options.negative if line.negative is None else line.negative

    def of(self, line: _Line, where: str | None) -> tuple[Prompt, ...]:
        """Texts and examples in pairs, or one of them alone; a line's texts replace --prompt."""
        try:
            prompts = tuple(self._paired(line.texts or self.texts))
            return self._checked(prompts)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from error

    def _paired(self, texts: Sequence[str]) -> Iterator[Prompt]:
        examples = self.options.example
        if texts and examples and len(texts) != len(examples):
            raise ValueError(
                f"--example: expected one for each of {len(texts)} prompts, found {len(examples)}"
            )
        if self.options.text_weight != 0.5 and not (texts and examples):
            raise ValueError("--text-weight: weighs --prompt against --example, found one of them")
        count = max(len(texts), len(examples))
        if not count and not TASKS[self.task].needs_prompt:
            yield dict(self.others) or None
        for i in range(count):
            own: Any = texts[i] if texts else None
            if examples:
                weighed = {"text": own, "text_weight": self.options.text_weight} if own else {}
                own = {"audio": examples[i], **weighed}
            yield {**self.others, self._label: own} if self.others or examples else own

    def _checked(self, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        task = TASKS[self.task]
        if not prompts:
            raise ValueError(f"{self.task}: expected a prompt or an --example, found none")
        if len(prompts) > 1 and not task.several:
            raise ValueError(f"{self.task}: expected one prompt, found {len(prompts)}")
        for prompt in prompts:
            if isinstance(prompt, str) and not prompt.strip():
                raise ValueError(f"prompt: expected a text, found {prompt!r}")
        return prompts


def song_jobs(
    prompts: Prompts, items: Sequence[_Item], seed: int, output: OutputOptions
) -> list[Job]:
    """A job for each song."""
    new_prompt, modes = prompts.new_prompt, prompts.modes
    jobs = []
    for item in items:
        own = prompts.of(item.line, item.where)
        name = "all" if modes.get("all") else _joined(prompts.task, own)
        name = f"without_{name}" if modes.get("minus") else name
        if new_prompt is not None:
            name += f"_with_{_joined(prompts.task, [new_prompt])}"
        song = item.line.name or item.path.stem
        folder = output.out.joinpath(*map(output_name, item.folder.parts))
        base, stem = folder / output_name(f"{song}_{name}"), f"{output_name(song)}_"
        if output.layout == "folders":
            base, stem = folder / output_name(song) / output_name(name), ""
        job = Job(prompts.task, own, base, stem, item.path, prompts.negative(item.line))
        own_seed = seed if item.line.seed is None else item.line.seed
        jobs.append(replace(job, seed=own_seed, new_prompt=new_prompt, **modes))
    return _with_own_names(jobs)


def new_jobs(prompts: Prompts, options: NewOptions, seed: int, output: OutputOptions) -> list[Job]:
    """Jobs without a song, `options.number` of each with seeds from `seed` up."""
    check_seconds(options.seconds)
    lines: list[tuple[str | None, _Line]] = [(None, _Line())]
    if options.manifest is not None:
        lines = [*_lines(options.manifest)]
    jobs = []
    for where, line in lines:
        if line.audio is not None:
            raise ConfigError(f"{where}: unknown key 'audio', {prompts.task} takes no song")
        own = prompts.of(line, where)
        first = seed if line.seed is None else line.seed
        seconds = options.seconds if line.seconds is None else line.seconds
        for own_seed in range(first, first + options.number):
            Sampling(seed=own_seed)
            name = output_name(line.name or _joined(prompts.task, own), f"_seed{own_seed}")
            folder = output.out / name if output.layout == "folders" else output.out
            base, negative = folder / name, prompts.negative(line)
            job = Job(prompts.task, own, base, f"{name}_", None, negative, own_seed, seconds)
            jobs.append(job)
    return _with_own_names(jobs)


def with_parts(jobs: Sequence[Job], options: PartOptions) -> list[Job]:
    """The jobs with --keep or --init, which are of one song and one prompt."""
    if (options.keep is None) != (not options.redo):
        raise ValueError("--keep and --redo: expected both or none, found one of them")
    for name, path in {"--keep": options.keep, "--init": options.init}.items():
        if path is not None:
            _check_part(name, jobs)
    values: dict[str, Any] = {"keep": options.keep, "redo": tuple(map(_span, options.redo))}
    if options.init is not None:
        if not 0 < options.init_level <= 1:
            raise ValueError(
                f"--init-level: expected over 0 and up to 1, found {options.init_level}"
            )
        values |= {"init": options.init, "init_level": options.init_level}
    return [replace(job, **values) for job in jobs]


def _check_part(name: str, jobs: Sequence[Job]) -> None:
    songs = {job.song for job in jobs}
    if len(songs) > 1:
        raise ValueError(f"{name}: is a track of one song, found {len(songs)} songs")
    for job in jobs:
        if len(job.prompts) > 1:
            raise ValueError(f"{name}: is for one track, found {len(job.prompts)} prompts")
        if job.seconds is not None:
            raise ValueError(f"--seconds: {name} sets the length, leave it out")


def _span(text: str) -> tuple[float, float]:
    """`START-END`, each in seconds or as m:ss or h:mm:ss, to seconds."""
    times = [time for part in text.split("-") if (time := _seconds(part)) is not None]
    if text.count("-") != 1 or len(times) != 2:
        raise ValueError(
            f"--redo: expected START-END, such as 0:40-0:52 or 40-52.5, found {text!r}"
        )
    start, end = times
    if not start < end:
        raise ValueError(f"--redo: expected an end after the start, found {text!r}")
    return start, end


def _seconds(text: str) -> float | None:
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text.strip(), re.ASCII):
        return None
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total if math.isfinite(total) else None


def _joined(task: str, prompts: Sequence[Prompt]) -> str:
    """The prompts in the name of a result."""
    label = TASKS[task].prompted.label
    is_source = TASKS[task].prompted is Track.SOURCE
    names = _names(task, prompts) if is_source else [_text(prompt, label) for prompt in prompts]
    return "_".join(filter(None, names)) or "unconditional"


def _with_own_names(jobs: Sequence[Job]) -> list[Job]:
    """Jobs of which no two write one file; what is requested twice is computed once."""
    once = list({job.key: job for job in jobs}.values())
    if len(once) < len(jobs):
        complain(f"requested more than once, computed once: {len(jobs) - len(once)}")
    bases = distinct_paths([job.base for job in once], [job.key for job in once])
    once = [replace(job, base=base) for job, base in zip(once, bases, strict=True)]
    claims = Counter(claim for job in once for claim in job.claims)
    return [
        job if all(claims[claim] == 1 for claim in job.claims) else job.with_long_names()
        for job in once
    ]
