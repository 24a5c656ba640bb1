"""`mge extract` and `mge generate`: the model's tasks on files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import sampling_progress, without_chatter
from mge_plugin.cli.options import CfgScale, Ckpt, Device, ModelConfig, Out, Refine, Seed, Steps

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline, Result


@app.command()
def extract(
    song: Annotated[Path, typer.Argument(help="An audio file.")],
    prompt: Annotated[str, typer.Option(help='E.g. "the sound of the bass".')],
    model_config: ModelConfig,
    ckpt: Ckpt,
    out: Out = Path("."),
    steps: Steps = 250,
    cfg_scale: CfgScale = 2.0,
    refine: Refine = "auto",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Extract the source that a text names from a song; the rest is the residual."""
    from mge_plugin.data.audio import read_audio
    from mge_plugin.inference.request import Sampling, check_prompt

    check_prompt(prompt)
    sampling = Sampling(steps, cfg_scale, seed, refine=refine)
    audio, sample_rate = read_audio(song)
    pipeline = _open(model_config, ckpt, device, out)
    with sampling_progress(pipeline.calls(audio.shape[1] / sample_rate, sampling)) as callback:
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
    with sampling_progress(pipeline.calls(seconds, sampling)) as callback:
        result = pipeline.generate(prompt, seconds, sampling, callback)
    origin = {"model_config": str(model_config), "ckpt": str(ckpt)}
    _save(result, out, f"{prompt or 'unconditional'}_seed{seed}", origin)


def _open(model_config: Path, ckpt: Path, device: str, out: Path) -> "Pipeline":
    """The model, once there is a folder for what it will make."""
    out.mkdir(parents=True, exist_ok=True)
    with without_chatter():
        from mge_plugin.inference.pipeline import load

        return load(model_config, ckpt, device)


def _save(result: "Result", out: Path, stem: str, info: dict[str, Any]) -> None:
    from mge_plugin.data.audio import write_wav
    from mge_plugin.files import file_stem, write_file

    stem = file_stem(stem)
    for name, audio in result.audio.items():
        path = write_wav(out / f"{stem}_{name}.wav", audio, result.sample_rate)
        typer.echo(f"Wrote {path}")
    text = json.dumps(info | result.info, indent=4, ensure_ascii=False)
    write_file(out / f"{stem}.json", text.encode(errors="backslashreplace"))
