"""`mge remix`: the tracks of an extraction with other levels.

What is asked in words and by audio examples, before anything is opened.

The model's tasks on files: `mge extract`, `add`, `accompany`, `replace`, `generate`, `compose`.

What a command line asks is checked and becomes jobs before anything slow is imported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mge_plugin.cli.app import app, complain, flat, pairs, without_chatter
from mge_plugin.cli.options import (
    FORMATS,
    BatchOptions,
    ExtractOptions,
    Manifest,
    ModelOptions,
    Number,
    OnePrompt,
    OutputOptions,
    PartOptions,
    PromptOptions,
    Prompts,
    SamplingOptions,
    Seconds,
    Songs,
)
from mge_plugin.config import ConfigError, choose, read_json
from mge_plugin.data.audio import audio_info
from mge_plugin.files import checkpoint_fingerprint

if TYPE_CHECKING:
    import numpy as np

    from mge_plugin.cli.jobs import Job

TRACKS = ("mixture", "submixture", "source")
PROMPTED = {  # by task: the track that its prompt is about
    "generate": "mixture",
    "extract": "source",
    "add": "source",
    "accompany": "submixture",
    "compose": "source",
    "replace": "source",
}
_UNPROMPTED = ("generate", "accompany")  # what the model may be left alone with
SEVERAL = ("extract", "add", "compose")  # what takes more than one prompt


@dataclass(frozen=True)
class Words:
    """One prompt."""

    text: str | None = None
    example: Path | None = None
    text_weight: float = 0.5
    others: tuple[tuple[str, str], ...] = ()  # (track, text) of other tracks

    @property
    def name(self) -> str:
        """In a file's name."""
        if self.text is None and self.example is None:
            return "_".join(text for _, text in self.others)
        return self.text or self.example.stem

    def described(self) -> Any:
        """As plain data, an example by its content."""
        if self.example is None and not self.others:
            return self.text
        values: dict[str, Any] = {"text": self.text, **dict(self.others)}
        if self.example is not None:
            values |= {"example": checkpoint_fingerprint(self.example)}
            values |= {"text_weight": self.text_weight}
        return values

    def prompt(self, task: str, read: Callable[[Path], dict[str, Any]]) -> Any:
        """As the pipeline takes it; `read` gives an example's tensor and rate."""
        prompt: Any = self.text
        if self.example is not None:
            prompt = read(self.example)
            if self.text is not None:
                prompt = prompt | {"text": self.text, "text_weight": self.text_weight}
        if not self.others:
            return prompt
        return dict(self.others) | ({} if prompt is None else {PROMPTED[task]: prompt})


@dataclass(frozen=True)
class Asked:
    """What a command line asks of every song."""

    task: str
    texts: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()
    text_weight: float = 0.5
    others: tuple[tuple[str, str], ...] = ()
    negative: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"text_weight: expected 0 to 1, found {self.text_weight}")
        if not all(text.strip() for text in self.texts):
            raise ValueError("prompt: expected words such as 'the sound of the bass', found none")
        for track, _ in self.others:
            choose("--track-prompt", track, dict.fromkeys(TRACKS))
            if track == PROMPTED[self.task]:
                raise ValueError(f"--track-prompt {track}: that is what --prompt is for")

    @classmethod
    def of(cls, task: str, texts: Sequence[str | None], options: PromptOptions) -> "Asked":
        """From the options; examples are looked at."""
        for path in options.example:
            audio_info(path)
        others = pairs("--track-prompt", options.track_prompt, "TRACK=TEXT")
        return cls(
            task,
            tuple(text for text in texts if text is not None),
            tuple(options.example),
            options.text_weight,
            tuple(others.items()),
            options.negative,
        )

    def instead(self, texts: tuple[str, ...], negative: str | None) -> "Asked":
        """With the words that a line of a manifest has, if it has any."""
        negative = self.negative if negative is None else negative
        return replace(self, texts=texts or self.texts, negative=negative)

    def prompts(self) -> tuple[Words, ...]:
        """Texts and examples in pairs, or one of them alone."""
        count = max(len(self.texts), len(self.examples))
        if self.texts and self.examples and len(self.texts) != len(self.examples):
            raise ValueError(
                f"--example: expected one for each of {len(self.texts)} prompts, "
                f"found {len(self.examples)}"
            )
        if count > 1 and self.task not in SEVERAL:
            raise ValueError(f"{self.task}: expected one prompt, found {count}")
        if count == 0 and self.task in _UNPROMPTED:
            return (Words(others=self.others),)
        if count == 0:
            raise ValueError(f"{self.task}: expected --prompt or --example, found none")
        if self.text_weight != 0.5 and not (self.texts and self.examples):
            raise ValueError("--text-weight: weighs --prompt against --example, found one of them")
        texts, examples = self.texts or [None] * count, self.examples or [None] * count
        return tuple(
            Words(text, example, self.text_weight, self.others)
            for text, example in zip(texts, examples, strict=True)
        )


@app.command()
@flat
def extract(
    *,
    songs: Songs,
    prompt: Prompts = (),
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    found: ExtractOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Extract the source that each prompt names from songs; the rest is the residual."""
    jobs = _on_songs("extract", songs, prompt, words, how, output, part)
    _run(jobs, how, model, output, size, found)


@app.command()
@flat
def add(
    *,
    songs: Songs,
    prompt: Prompts = (),
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Add a source for each prompt, in order, to songs; with the new mixture."""
    jobs = _on_songs("add", songs, prompt, words, how, output, part)
    _run(jobs, how, model, output, size)


@app.command()
@flat
def accompany(
    *,
    songs: Songs,
    prompt: OnePrompt = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Make the rest of the band for single sources; with the mixture of both."""
    jobs = _on_songs("accompany", songs, [prompt], words, how, output, part)
    _run(jobs, how, model, output, size)


@app.command("replace")
@flat
def replace_source(
    *,
    songs: Songs,
    prompt: OnePrompt = None,
    new_prompt: Annotated[str, typer.Option("--with", help="What is to be there instead.")],
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    found: ExtractOptions,
) -> None:
    """Replace an instrument in songs: extract what --prompt names, add what --with names."""
    pass

    new = Asked.of(
        "replace", [new_prompt], PromptOptions(track_prompt=words.track_prompt)
    ).prompts()
    jobs = _on_songs("replace", songs, [prompt], words, how, output, new=new)
    _run(jobs, how, model, output, None, found)


@app.command()
@flat
def generate(
    *,
    prompt: OnePrompt = None,
    seconds: Seconds = None,
    number: Number = 1,
    manifest: Manifest = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Generate music from a text, or from none."""
    pass
    from mge_plugin.cli.jobs import new_jobs, partly

    asked = Asked.of("generate", [prompt], words)
    jobs = new_jobs(asked, manifest, seconds, how.seed, number, output.out)
    _run(partly(jobs, part), how, model, output, size)


@app.command()
@flat
def compose(
    *,
    prompt: Prompts = (),
    seconds: Seconds = None,
    number: Number = 1,
    manifest: Manifest = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    size: BatchOptions,
) -> None:
    """Compose a song source by source: one for each prompt, in order, and their mixture."""
    pass
    from mge_plugin.cli.jobs import new_jobs

    asked = Asked.of("compose", prompt, words)
    jobs = new_jobs(asked, manifest, seconds, how.seed, number, output.out)
    _run(jobs, how, model, output, size)


def _on_songs(
    task: str,
    songs: Sequence[Path],
    prompts: Sequence[str | None],
    words: PromptOptions,
    how: SamplingOptions,
    output: OutputOptions,
    part: PartOptions | None = None,
    new: tuple[Any, ...] = (),
) -> "list[Job]":
    """A job for each song that the arguments name."""
    pass
    from mge_plugin.cli.jobs import find_songs, partly, song_jobs

    asked = Asked.of(task, prompts, words)
    jobs = song_jobs(asked, find_songs(songs, output.out), how.seed, output.out, new)
    return jobs if part is None else partly(jobs, part)


def _run(
    jobs: "Sequence[Job]",
    how: SamplingOptions,
    model: ModelOptions,
    output: OutputOptions,
    size: BatchOptions | None = None,
    found: ExtractOptions | None = None,
) -> None:
    """Make the jobs' results with all that was asked."""
    from mge_plugin.cli.batch import run_jobs

    together = 1 if size is None else size.batch
    run_jobs(jobs, how.sampling(), (found or ExtractOptions()).finish(), model, output, together)


@app.command()
def remix(
    extraction: Annotated[Path, typer.Argument(help="An extraction's JSON, or its folder.")],
    out: Annotated[Path, typer.Option(help="The file to write, .wav or .flac.")],
    gain: Annotated[
        list[str] | None,
        typer.Option(help="In dB, -inf mutes, e.g. source_1=-6; repeatable.", metavar="TRACK=DB"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over a file that is there.")
    ] = False,
) -> None:
    """Sum the tracks that an extraction wrote, each with its gain; needs no model."""
    gains = {n: _decibels(v) for n, v in pairs("--gain", gain or (), "TRACK=DB").items()}
    files = _tracks(extraction)
    if unknown := sorted(set(gains) - set(files)):
        raise ConfigError(f"--gain: expected tracks of {', '.join(files)}, found {unknown[0]!r}")
    if out.suffix.lower().lstrip(".") not in FORMATS:
        raise ValueError(f"--out: expected a name ending in .wav or .flac, found {out.name!r}")
    if any(out.exists() and out.samefile(path) for path in files.values() if path.exists()):
        raise ValueError(f"--out: {out} is a track of the extraction; choose another name")
    if out.exists() and not overwrite:
        raise ValueError(f"--out: {out} exists, use --overwrite or another name")
    audio, rate = _read(files)
    with without_chatter():
        from mge_plugin.inference.request import Result
        from mge_plugin.inference.request import remix as sum_up

    typer.echo(f"Wrote {_write(out, sum_up(Result(audio, rate), gains), rate)}")


def _decibels(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if math.isnan(level) or level == math.inf:
        raise ValueError(f"--gain: expected a number of dB or -inf, found {text!r}")
    return level


def _tracks(extraction: Path) -> dict[str, Path]:
    """The files of the tracks that sum to the song, by name."""
    from mge_plugin.cli.batch import track_files

    path = _json_in(extraction) if extraction.is_dir() else extraction
    info = read_json(path)
    if info.get("task") != "extract":
        raise ConfigError(f"{path}: expected the JSON of an extraction, found {info.get('task')!r}")
    return track_files(path, info)


def _json_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{folder}: expected one JSON of an extraction, found {names}")
    return found[0]


def _read(files: dict[str, Path]) -> "tuple[dict[str, np.ndarray], int]":
    """Tracks of one form, and their rate."""
    from mge_plugin.data.audio import read_audio

    read = {name: read_audio(path) for name, path in files.items()}
    forms = {name: (audio.shape, rate) for name, (audio, rate) in read.items()}
    if len(set(forms.values())) > 1:
        raise ConfigError(f"expected tracks of one length, rate and channels, found {forms}")
    return {name: audio for name, (audio, _) in read.items()}, next(iter(forms.values()))[1]


def _write(out: Path, audio: "np.ndarray", rate: int) -> Path:
    """A FLAC where one is asked for and can hold it; else a WAV, which is told."""
    from mge_plugin.data.audio import flac_problem, write_flac, write_wav

    if out.suffix.lower() == ".wav":
        return write_wav(out, audio, rate)
    if problem := flac_problem(audio, rate):
        complain(f"{out}: written as WAV, since a FLAC cannot hold it as it is: {problem}")
        return write_wav(out.with_suffix(".wav"), audio, rate)
    return write_flac(out, audio, rate)
