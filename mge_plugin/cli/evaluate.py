"""`mge evaluate`: figures of a model, beside floors and ceilings, by the paper's protocol."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app, without_chatter

_TASKS = ("generate", "extract", "add", "compose")
LABELS = ("bass", "drums", "guitar", "piano")  # the paper's S_A


@app.command()
def evaluate(
    task: Annotated[str, typer.Option(help=f"One of {', '.join(_TASKS)}.")],
    model_config: Annotated[Path, typer.Option(help="The model's JSON config.")],
    ckpt: Annotated[Path, typer.Option(help="Its weights, .ckpt or .safetensors.")],
    dataset_config: Annotated[Path, typer.Option(help="The test set, a dataset config.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    estimates: Annotated[
        list[Path] | None, typer.Option(help="A folder of anybody's estimates, by segment id.")
    ] = None,
    demucs: Annotated[
        str | None, typer.Option(help="Of extract: a model of Demucs, its name or folder.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Instruments; bass, drums, guitar, piano if not said.")
    ] = None,
    segments: Annotated[int, typer.Option(help="Segments, of each label or combination.")] = 300,
    segments_file: Annotated[
        Path | None, typer.Option(help="Judge those of another run (its segments.json).")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Of a segment; the model's window.")] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 250,
    cfg_scale: Annotated[float, typer.Option(help="Guidance scale; 1 is none.")] = 2.0,
    sampler: Annotated[str, typer.Option(help="See docs/tasks.md.")] = "ddim",
    schedule: Annotated[str, typer.Option(help="linear or log-snr.")] = "linear",
    resamplings: Annotated[int, typer.Option(help="Of repaint: U.")] = 1,
    embedding: Annotated[
        str, typer.Option(help="FAD's: vggish (needs weights), clap (the model's), mel, none.")
    ] = "mel",
    embedding_weights: Annotated[Path | None, typer.Option(help="VGGish's weights.")] = None,
    batch: Annotated[int, typer.Option(help="Segments at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of segments and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
) -> None:
    """Score a model, floors and ceilings on one set of segments; write a page, CSV and JSON.

    Started by torchrun, each rank takes its share; a run that was stopped goes on.
    """
    if task not in _TASKS:
        raise ValueError(f"task: expected one of {', '.join(_TASKS)}, found {task!r}")
    with without_chatter():
        from mge_plugin.data.latents.encode import Ranks
        from mge_plugin.evaluation.protocol import Protocol
        from mge_plugin.evaluation.systems import paper_sampling
        from mge_plugin.inference.pipeline import load

        options = {"sampler": sampler, "schedule": schedule, "resamplings": resamplings}
        sampling = paper_sampling(steps, cfg_scale, seed=seed, window_batch=batch, **options)
        pipeline = load(model_config, ckpt, str(Ranks.of(os.environ).device(device)))
    protocol = Protocol(
        task=task,
        dataset_config=dataset_config,
        out=out,
        labels=tuple(label or LABELS),
        count=segments,
        segments_file=segments_file,
        seconds=seconds,
        seed=seed,
        batch=batch,
        demucs=demucs,
    )
    page = protocol.run(
        pipeline, ckpt, sampling, tuple(estimates or ()), embedding, embedding_weights
    )
    if page is not None:
        summary = json.loads((out / "summary.json").read_text())
        for line in _lines(summary):
            typer.echo(line)
        typer.echo(f"Wrote {page}")


def _lines(summary: dict) -> list[str]:
    """The averages, a line a metric and system."""
    lines = []
    for metric, rows in summary["means"].items():
        by = f" {summary['facts'].get('CLAP score', '')}" if metric == "clap_score" else ""
        for system, cells in rows.items():
            average = cells["Avg."]
            name = f"{metric + by:<26} {system:<18}"
            lines.append(f"{name} {average['mean']:8.3f}  n={average['count']}")
    for system, cells in summary["fad"].items():
        values = [c["fad"] for c in cells.values()]
        lines.append(f"{'fad':<26} {system:<18} {sum(values) / len(values):8.3f}")
    return lines
