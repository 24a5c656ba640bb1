"""`mge run`: stable-audio-tools' own scripts with the plugin registered."""

import os
import sys

import typer

from mge_plugin.cli.app import app


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run a script of stable-audio-tools with the plugin: mge run [--cpu] SCRIPT ARGS..."""
    arguments = [sys.executable, "-m", "mge_plugin", *context.args]
    os.execv(sys.executable, arguments)
