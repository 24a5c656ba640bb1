"""`mge demo`, `mge doctor`, `mge check`, `mge patch`, `mge run`: does it work, and with SAT?"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app, complain, say, slow_module
from mge_plugin.cli.options import Device, Out, Seed
from mge_plugin.config import ConfigError, read_json
from mge_plugin.launcher import quietly
from mge_plugin.patch import apply_patch, find_file, is_patched, revert_patch


@app.command("demo")
def _demo(out: Out = Path("demo"), seed: Seed = 0, device: Device = "auto") -> None:
    """Extract, add and generate with the shipped weights on a new song; write a page."""
    say(f"Open {slow_module('mge_plugin.demo').run_demo(out, seed, device)}")


@app.command("doctor")
def _doctor() -> None:
    """List what is installed and found, and what is wrong."""
    with quietly():
        findings = list(slow_module("mge_plugin.doctor").examine())
    for finding in findings:
        say(f"{finding.name:22} {finding.value}")
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        complain(f"problem: {finding.name}: {finding.problem}")
    if problems:
        raise typer.Exit(1)


@app.command("check")
def _check(
    model_config: Annotated[Path, typer.Argument(help="A model config.")],
    dataset_config: Annotated[Path | None, typer.Argument(help="A dataset config.")] = None,
) -> None:
    """Verify that a model config and a dataset config fit; report every problem at once."""
    if dataset_config is not None and _is_dataset(model_config) > _is_dataset(dataset_config):
        model_config, dataset_config = dataset_config, model_config
    with quietly():
        problems = slow_module("mge_plugin.check").check_configs(model_config, dataset_config)
    for problem in problems:
        complain(f"problem: {problem}")
    if problems:
        raise typer.Exit(1)
    say("ok: everything fits")


def _is_dataset(path: Path) -> bool:
    try:
        return not {"dataset_type", "datasets"}.isdisjoint(read_json(path))
    except ConfigError:
        return False


@app.command("patch")
def _patch(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A clone of stable-audio-tools, or its package's folder. Default: the installed "
            "package.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only report whether it is applied: then exit code 0.")
    ] = False,
    revert: Annotated[bool, typer.Option("--revert", help="Remove the patch.")] = False,
) -> None:
    """Patch stable-audio-tools so that its scripts load this plugin: python train.py ..."""
    if check and revert:
        raise ValueError("--check and --revert: expected one of them, found both")
    file = find_file(path)
    if check:
        applied = is_patched(file)
        say(f"{file}: {'applied' if applied else 'not applied'}")
        raise typer.Exit(0 if applied else 1)
    if revert:
        result = "reverted" if revert_patch(file) else "not patched, nothing to revert"
    else:
        result = "patched" if apply_patch(file) else "already patched"
    say(f"{file}: {result}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run a script of stable-audio-tools with the plugin: mge run [--cpu] SCRIPT ARGS..."""
    os.execv(sys.executable, [sys.executable, "-m", "mge_plugin", *context.args])
