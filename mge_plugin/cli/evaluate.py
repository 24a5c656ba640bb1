"""`mge evaluate`: scores of a model beside floors and ceilings, by the paper's protocol."""

import json
import os

from mge_plugin.cli.app import Given, app, grouped, say, slow_module
from mge_plugin.cli.options import ModelChoice
from mge_plugin.evaluation import EvaluationOptions
from mge_plugin.inference.request import Sampling
from mge_plugin.launcher import quietly


def _evaluate(*, options: EvaluationOptions, model: ModelChoice, sampling: Given) -> None:
    """Score a model, floors and ceilings on the same segments; write a page, a CSV and a JSON.

    Under torchrun each rank takes its share; an interrupted run resumes.
    """
    files, chosen = model.find(), Sampling.paper(**{"window_batch": options.batch} | sampling)
    ranks = slow_module("mge_plugin.data.latents.encode").Ranks.of(os.environ)
    device = str(ranks.device(model.device))
    with quietly():
        pipeline = slow_module("mge_plugin.inference.pipeline").load(*files.paths, device=device)
    protocol = slow_module("mge_plugin.evaluation.protocol")
    page = protocol.evaluate(options, pipeline, files.ckpt, chosen)
    if page is not None:
        summary = json.loads((options.out / "summary.json").read_text())
        for line in _lines(summary):
            say(line)
        say(f"Wrote {page}")


app.command("evaluate")(
    grouped(
        _evaluate,
        {"options": EvaluationOptions, "model": ModelChoice, "sampling": Sampling},
        defaults="the paper's",
    )
)


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
