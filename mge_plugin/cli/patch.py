"""`mge patch`: stable-audio-tools finds this plugin by itself."""

from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app


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
        bool, typer.Option("--check", help="Only say whether it is applied: exit code 0 if so.")
    ] = False,
    revert: Annotated[bool, typer.Option("--revert", help="Take it out again.")] = False,
) -> None:
    """Patch stable-audio-tools so that its scripts load this plugin: python train.py ..."""
    from mge_plugin.patching.patch import State, find_patch

    if check and revert:
        raise ValueError("--check and --revert: expected one of them, found both")
    found = find_patch(path)
    if check:
        state = found.state()
        typer.echo(f"{found.file}: {state.value} (stable-audio-tools {found.version})")
        raise typer.Exit(0 if state is State.APPLIED else 1)
    changed = found.revert() if revert else found.apply()
    done = "reverted" if revert else "patched"
    already = "not patched, nothing to revert" if revert else "already patched"
    result = done if changed else already
    typer.echo(f"{found.file}: {result} (stable-audio-tools {found.version})")
