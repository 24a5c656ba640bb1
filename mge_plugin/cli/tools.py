"""`mge run`: stable-audio-tools' own scripts with the plugin registered.

`mge demo`, `mge doctor`, `mge check`: does it work here, and do the configs fit?

`mge patch`: stable-audio-tools finds this plugin by itself.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app, complain, without_chatter
from mge_plugin.cli.options import Device, Out, Seed


@app.command()
def demo(
    out: Out = Path("demo"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Extract, add and generate with the weights that ship, on a new song; write a page."""
    from mge_plugin.demo import run_demo

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


@app.command()
def patch(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A clone of stable-audio-tools, or its package's folder; the installed package "
            "if absent."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only report whether it is applied: exit code 0 if so.")
    ] = False,
    revert: Annotated[bool, typer.Option("--revert", help="Remove it again.")] = False,
) -> None:
    """Patch stable-audio-tools so that its scripts load this plugin: python train.py ..."""
    from mge_plugin.patch import apply_patch, find_file, is_patched, revert_patch

    if check and revert:
        raise ValueError("--check and --revert: expected one of them, found both")
    file = find_file(path)
    if check:
        applied = is_patched(file)
        typer.echo(f"{file}: {'applied' if applied else 'not applied'}")
        raise typer.Exit(0 if applied else 1)
    if revert:
        result = "reverted" if revert_patch(file) else "not patched, nothing to revert"
    else:
        result = "patched" if apply_patch(file) else "already patched"
    typer.echo(f"{file}: {result}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run a script of stable-audio-tools with the plugin: mge run [--cpu] SCRIPT ARGS..."""
    arguments = [sys.executable, "-m", "mge_plugin", *context.args]
    os.execv(sys.executable, arguments)
