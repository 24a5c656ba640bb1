"""`mge evaluate`: scores of a model beside floors and ceilings, by the paper's protocol."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.launcher import quietly


@app.command()
def evaluate(
    task: Annotated[str, typer.Option(help="generate, extract, add or compose.")],
    model_config: Annotated[Path, typer.Option(help="JSON config of the model.")],
    ckpt: Annotated[Path, typer.Option(help="Weights of the model, .ckpt or .safetensors.")],
    dataset_config: Annotated[Path, typer.Option(help="Dataset config of the test set.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    estimates: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another system's estimates, by segment id; repeatable."),
    ] = None,
    demucs: Annotated[
        str | None, typer.Option(help="extract: also score a Demucs model, by name or folder.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Target instrument; repeatable. Default: bass, drums, guitar, piano."),
    ] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="generate: without prompts.")
    ] = False,
    given: Annotated[
        str,
        typer.Option(
            help="add: what is given. labels: the other labels, for every split of the labels; "
            "rest: all other stems of the song."
        ),
    ] = "labels",
    segments: Annotated[int, typer.Option(help="Segments per label or combination.")] = 300,
    segments_file: Annotated[
        Path | None, typer.Option(help="Score the segments of another run (its segments.json).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of a segment. Default: the model's window.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 250,
    cfg_scale: Annotated[float, typer.Option(help="Guidance scale; 1 is no guidance.")] = 2.0,
    sampler: Annotated[str, typer.Option(help="Sampler; docs/tasks.md lists them.")] = "ddim",
    schedule: Annotated[str, typer.Option(help="linear or log-snr.")] = "linear",
    resamplings: Annotated[int, typer.Option(help="repaint: passes per step, U.")] = 1,
    embedding: Annotated[
        str,
        typer.Option(
            help="Embedding of FAD: vggish (needs weights; before its last ReLU), vggish-relu "
            "(after it), clap (the model's own), mel, none."
        ),
    ] = "mel",
    embedding_weights: Annotated[Path | None, typer.Option(help="Weights of VGGish.")] = None,
    batch: Annotated[int, typer.Option(help="Segments per batch.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of segments and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
) -> None:
    """Score a model, floors and ceilings on the same segments; write a page, a CSV and a JSON.

    Under torchrun each rank takes its share; an interrupted run resumes.
    """
    with quietly():
        from mge_plugin.data.latents.encode import Ranks
        from mge_plugin.evaluation import EvaluationOptions, protocol
        from mge_plugin.inference.pipeline import load
        from mge_plugin.inference.request import Sampling

        given_options = {"label": tuple(label)} if label else {}
        chosen = EvaluationOptions(
            task=task,
            dataset_config=dataset_config,
            out=out,
            segments=segments,
            segments_file=segments_file,
            seconds=seconds,
            batch=batch,
            demucs=demucs,
            estimates=tuple(estimates or ()),
            embedding=embedding,
            embedding_weights=embedding_weights,
            unconditional=unconditional,
            given=given,
            **given_options,
        )
        options = {"sampler": sampler, "schedule": schedule, "resamplings": resamplings}
        sampling = Sampling(steps, cfg_scale, seed, batch, **options)
        pipeline = load(model_config, ckpt, str(Ranks.of(os.environ).device(device)))
    page = protocol.evaluate(chosen, pipeline, ckpt, sampling)
    if page is not None:
        summary = json.loads((out / "summary.json").read_text())
        for line in _lines(summary):
            typer.echo(line)
        typer.echo(f"Wrote {page}")


def _lines(summary: dict) -> list[str]:
    """The averages, one line per metric and system."""
    lines = []
    for metric, rows in summary["means"].items():
        by = f" {summary['facts'].get('CLAP score', '')}" if metric == "clap_score" else ""
        for system, cells in rows.items():
            average = cells["Avg."]
            line = f"{metric + by:<26} {system:<18} {average['mean']:8.3f}  n={average['count']}"
            lines.append(line + (f"  silent={average['silent']}" if average["silent"] else ""))
    for system, cells in summary["fad"].items():
        values = [c["fad"] for c in cells.values()]
        lines.append(f"{'fad':<26} {system:<18} {sum(values) / len(values):8.3f}")
    return lines
