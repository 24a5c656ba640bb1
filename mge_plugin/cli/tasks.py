"""`mge extract`, `add`, `accompany`, `replace`, `generate`, `compose`: the tasks on files.

`mge remix`: the tracks of a result with other levels.

A command line is checked and becomes jobs before torch is imported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mge_plugin.cli.app import Given, app, complain, grouped, pairs, say
from mge_plugin.cli.batch import Runner, track_files
from mge_plugin.cli.jobs import (
    Prompts,
    find_songs,
    new_jobs,
    song_jobs,
    split_words,
    with_parts,
)
from mge_plugin.cli.options import (
    FORMATS,
    ExtractOptions,
    ModelOptions,
    NewOptions,
    OutputOptions,
    PartOptions,
    PromptOptions,
    ReplaceOptions,
)
from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import flac_problem, read_audio, write_flac, write_wav
from mge_plugin.inference.request import Finish, Result, Sampling
from mge_plugin.inference.request import remix as mix
from mge_plugin.tracks import TASKS, Track

if TYPE_CHECKING:
    import numpy as np

_HELP = {
    "extract": "Extract a source for each prompt from songs; the rest is the residual.",
    "add": "Add a source for each prompt, in order, to songs.",
    "accompany": "Generate the rest of the band for single sources.",
    "replace": "Replace an instrument in songs: extract one source, add another.",
    "generate": "Generate music from a text, or without one.",
    "compose": "Compose a song source by source, one for each prompt, in order.",
}
_SONGS = (
    "Audio files, folders of them, or manifests (.jsonl, one song per line: audio, and prompt, "
    "negative, seed, name); then prompts, e.g. bass drums."
)


def _task_command(task: str) -> Callable[..., None]:
    """The command of a task, with the options that the task takes."""
    info, given = TASKS[task], TASKS[task].given is not None
    text = _SONGS if given else 'Prompts, e.g. "a slow ballad".'
    metavar = "SONG... [PROMPT...]" if given else "[PROMPT]..."

    def run(
        *,
        arguments: Annotated[
            list[str], typer.Argument(metavar=metavar, help=text, show_default=False)
        ] = (),  # type: ignore[assignment]  # typer wants list, immutable here
        sampling: Given,
        **groups: Any,
    ) -> None:
        _run_task(task, arguments, sampling, **groups)

    groups: dict[str, type] = {"prompts": PromptOptions}
    if task == "extract":
        groups["extract"] = ExtractOptions
    if info.new_prompt:
        groups["new"] = ReplaceOptions
    if info.has_length:
        groups["length"] = NewOptions
    groups |= {"model": ModelOptions, "output": OutputOptions, "sampling": Sampling}
    if info.given is Track.MIXTURE:
        groups["finish"] = Finish
    if not info.new_prompt and task != "compose":
        groups["part"] = PartOptions
    return grouped(run, groups)


for _name, _text in _HELP.items():
    app.command(_name, help=_text)(_task_command(_name))


def _run_task(
    task: str,
    arguments: Sequence[str],
    sampling: Given,
    *,
    model: ModelOptions,
    output: OutputOptions,
    prompts: PromptOptions,
    extract: ExtractOptions | None = None,
    new: ReplaceOptions | None = None,
    length: NewOptions | None = None,
    finish: Finish | None = None,
    part: PartOptions | None = None,
) -> None:
    """Compute the results that a command line requests."""
    files = model.find()
    chosen = Sampling.paper() if model.paper else Sampling.of_model(files.config)
    chosen = replace(chosen, **sampling)
    if length is not None:
        from_words = Prompts(task, prompts, arguments, files.card)
        jobs = new_jobs(from_words, length, chosen.seed, output)
    else:
        songs, words = split_words(arguments)
        if not songs:
            raise ValueError(f"{task}: expected a song, found none")
        if extract is not None and extract.all and finish is not None and not finish.gate:
            raise ValueError("--all: writes what the gate finds, leave out --no-gate")
        new_prompt = None if new is None else new.new_prompt
        from_words = Prompts(task, prompts, words, files.card, extract, new_prompt)
        jobs = song_jobs(from_words, find_songs(songs, output.out), chosen.seed, output)
    if part is not None:
        jobs = with_parts(jobs, part)
    Runner(files, model, output, chosen, finish or Finish()).run(jobs)


@app.command("remix")
def _remix(
    result: Annotated[Path, typer.Argument(help="The JSON of a result, or its folder.")],
    out: Annotated[Path, typer.Option(help="The file to write, .wav or .flac.")],
    gain: Annotated[
        list[str] | None,
        typer.Option(help="In dB; -inf mutes, e.g. bass=-6; repeatable.", metavar="TRACK=DB"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Mix the tracks of a result with a gain for each; needs no model."""
    gains = {n: _decibels(v) for n, v in pairs("--gain", gain or (), "TRACK=DB").items()}
    path = _json_in(result) if result.is_dir() else result
    info = read_json(path)
    if info.get("task") not in TASKS:
        raise ConfigError(f"{path}: expected the JSON of a result, found task {info.get('task')!r}")
    files = track_files(path, info)
    if out.suffix.lower().lstrip(".") not in FORMATS:
        raise ValueError(f"--out: expected a name ending in .wav or .flac, found {out.name!r}")
    if any(out.exists() and out.samefile(file) for file in files.values() if file.exists()):
        raise ValueError(f"--out: {out} is a track of the result; choose another name")
    if out.exists() and not overwrite:
        raise ValueError(f"--out: {out} exists, use --overwrite or another name")
    audio, rate = _read(files)
    say(f"Wrote {_write(out, mix(Result(audio, rate, {'task': info['task']}), gains), rate)}")


def _decibels(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if math.isnan(level) or level == math.inf:
        raise ValueError(f"--gain: expected a number of dB or -inf, found {text!r}")
    return level


def _json_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{folder}: expected one JSON of a result, found {names}")
    return found[0]


def _read(files: dict[str, Path]) -> "tuple[dict[str, np.ndarray], int]":
    """Tracks of one form, and their rate."""
    read = {name: read_audio(path) for name, path in files.items()}
    forms = {name: (audio.shape, rate) for name, (audio, rate) in read.items()}
    if len(set(forms.values())) > 1:
        raise ConfigError(f"expected tracks of one length, rate and channels, found {forms}")
    return {name: audio for name, (audio, _) in read.items()}, next(iter(forms.values()))[1]


def _write(out: Path, audio: "np.ndarray", rate: int) -> Path:
    """Write a FLAC if its name says so and it can hold the audio, else a WAV."""
    if out.suffix.lower() == ".wav":
        return write_wav(out, audio, rate)
    if problem := flac_problem(audio, rate):
        complain(f"{out}: written as WAV, since a FLAC cannot hold it as it is: {problem}")
        return write_wav(out.with_suffix(".wav"), audio, rate)
    return write_flac(out, audio, rate)
