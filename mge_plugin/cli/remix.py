"""`mge remix`: the tracks of an extraction with other levels."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import complain, without_chatter
from mge_plugin.cli.options import FORMATS
from mge_plugin.cli.parsing import pairs
from mge_plugin.config import ConfigError, read_json

if TYPE_CHECKING:
    import numpy as np


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
        from mge_plugin.inference.pipeline import Result
        from mge_plugin.inference.pipeline import remix as sum_up

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
    from mge_plugin.cli.outputs import track_files

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
