"""`mge demo`, `mge doctor`, `mge check`: does it work here, and do the configs fit?"""

from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import complain, without_chatter
from mge_plugin.cli.options import Device, Out, Seed


@app.command()
def demo(
    out: Out = Path("demo"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Extract, add and generate with the weights that ship, on a new song; write a page."""
    from mge_plugin.demo.run import run_demo

    typer.echo(f"Open {run_demo(out, seed, device)}")


@app.command()
def doctor() -> None:
    """Say what is installed and found, and what is wrong."""
    from mge_plugin.doctor import examine

    with without_chatter():
        findings = list(examine())
    for finding in findings:
        typer.echo(f"{finding.name:22} {finding.value}")
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        complain(f"problem: {finding.name}: {finding.problem}")
    if problems:
        raise typer.Exit(1)


@app.command()
def check(
    model_config: Annotated[Path, typer.Argument(help="A model config.")],
    dataset_config: Annotated[Path | None, typer.Argument(help="A dataset config.")] = None,
) -> None:
    """Verify that a model config and a dataset config fit; report every problem at once."""
    from mge_plugin.check import check_configs

    with without_chatter():
        problems = check_configs(model_config, dataset_config)
    for problem in problems:
        complain(f"problem: {problem}")
    if problems:
        raise typer.Exit(1)
    typer.echo("ok: everything fits")
