"""The `mge` command."""

import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline, Result

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A three-track music model for stable-audio-tools: make music, extract any instrument.",
)

ModelConfig = Annotated[Path, typer.Option("--model-config", help="The model's JSON config.")]
Ckpt = Annotated[Path, typer.Option("--ckpt", help="Its weights, .ckpt or .safetensors.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Steps = Annotated[int, typer.Option(help="Sampling steps, 1 or more.")]
CfgScale = Annotated[float, typer.Option(help="Guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


def main() -> None:
    """Entry point: an expected error is one sentence on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with _errors_as_sentences():
        app()


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("MGE_DEBUG"):
            raise
        _complain(f"error: {_sentence(error)}")
        raise SystemExit(1) from error


def _sentence(error: Exception) -> str:
    """An error's message in one line; the system's own without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def _complain(line: str) -> None:
    """Write a line to stderr, whatever characters a path has."""
    typer.echo(line.encode(errors="backslashreplace").decode(), err=True)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hide what SAT says while it is loaded: optional packages it does without, deprecations."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@app.command()
def demo(
    out: Out = Path("demo"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Make a small corpus, train a toy model on it, extract and generate, write a page."""
    from mge_plugin.demo.run import run_demo

    typer.echo(f"Open {run_demo(out, seed, device)}")


@app.command()
def doctor() -> None:
    """Say what is installed and found, and what is wrong."""
    from mge_plugin.doctor import examine

    with _without_chatter():
        findings = list(examine())
    for finding in findings:
        typer.echo(f"{finding.name:22} {finding.value}")
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        _complain(f"problem: {finding.name}: {finding.problem}")
    if problems:
        raise typer.Exit(1)


@app.command()
def check(
    model_config: Annotated[Path, typer.Argument(help="A model config.")],
    dataset_config: Annotated[Path | None, typer.Argument(help="A dataset config.")] = None,
) -> None:
    """Verify that a model config and a dataset config fit; report every problem at once."""
    from mge_plugin.check import check_configs

    with _without_chatter():
        problems = check_configs(model_config, dataset_config)
    for problem in problems:
        _complain(f"problem: {problem}")
    if problems:
        raise typer.Exit(1)
    typer.echo("ok: everything fits")


@app.command()
def minislakh(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    songs: Annotated[int, typer.Option(min=1, help="Number of songs.")] = 20,
    seconds: Annotated[float, typer.Option(help="Length of a song.")] = 30.0,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Compose and render a small corpus in Slakh2100's layout."""
    from mge_plugin.data.minislakh import write_corpus

    typer.echo(f"Wrote {write_corpus(out, songs, seconds, seed, workers=workers)}")


@app.command()
def extract(
    song: Annotated[Path, typer.Argument(help="An audio file.")],
    prompt: Annotated[str, typer.Option(help='E.g. "the sound of the bass".')],
    model_config: ModelConfig,
    ckpt: Ckpt,
    out: Out = Path("."),
    steps: Steps = 250,
    cfg_scale: CfgScale = 2.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Extract the source that a text names from a song; the rest is the residual."""
    from mge_plugin.data.audio import read_audio
    from mge_plugin.inference.request import Sampling, check_prompt

    check_prompt(prompt)
    sampling = Sampling(steps, cfg_scale, seed)
    audio, sample_rate = read_audio(song)
    pipeline = _open(model_config, ckpt, device, out)
    with _progress(pipeline.calls(audio.shape[1] / sample_rate, sampling)) as callback:
        result = pipeline.extract(audio, sample_rate, prompt, sampling, callback)
    origin = {"song": str(song), "model_config": str(model_config), "ckpt": str(ckpt)}
    _save(result, out, f"{song.stem}_{prompt}", origin)


@app.command()
def generate(
    model_config: ModelConfig,
    ckpt: Ckpt,
    prompt: Annotated[str | None, typer.Option(help="What the music should be.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length; one window if absent.")] = None,
    out: Out = Path("."),
    steps: Steps = 250,
    cfg_scale: CfgScale = 2.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Generate music from a text."""
    from mge_plugin.inference.request import Sampling, check_seconds

    check_seconds(seconds)
    sampling = Sampling(steps, cfg_scale, seed)
    pipeline = _open(model_config, ckpt, device, out)
    with _progress(pipeline.calls(seconds, sampling)) as callback:
        result = pipeline.generate(prompt, seconds, sampling, callback)
    origin = {"model_config": str(model_config), "ckpt": str(ckpt)}
    _save(result, out, f"{prompt or 'unconditional'}_seed{seed}", origin)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run a script of stable-audio-tools with the plugin: mge run [--cpu] SCRIPT ARGS..."""
    arguments = [sys.executable, "-m", "mge_plugin", *context.args]
    os.execv(sys.executable, arguments)


def _open(model_config: Path, ckpt: Path, device: str, out: Path) -> "Pipeline":
    """The model, once there is a folder for what it will make."""
    out.mkdir(parents=True, exist_ok=True)
    with _without_chatter():
        from mge_plugin.inference.pipeline import load

        return load(model_config, ckpt, device)


@contextmanager
def _progress(calls: int) -> Iterator[Callable[[Any], None]]:
    with tqdm(total=calls, desc="sampling", unit="step") as bar:

        def step(_: Any) -> None:
            bar.update()

        yield step


def _save(result: "Result", out: Path, stem: str, info: dict[str, Any]) -> None:
    from mge_plugin.data.audio import write_wav
    from mge_plugin.files import write_file

    stem = file_stem(stem)
    for name, audio in result.audio.items():
        path = write_wav(out / f"{stem}_{name}.wav", audio, result.sample_rate)
        typer.echo(f"Wrote {path}")
    text = json.dumps(info | result.info, indent=4, ensure_ascii=False)
    write_file(out / f"{stem}.json", text.encode(errors="backslashreplace"))


def file_stem(text: str) -> str:
    """A name safe for any file system: words joined by underscores, at most 100 bytes."""
    name = re.sub(r"[^\w-]+", "_", text).encode()[:100].decode(errors="ignore")
    return name.strip("_") or "untitled"
