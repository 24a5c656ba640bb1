"""The command line itself, and its entry point."""

import logging
import sys

import typer

from mge_plugin.cli.console import errors_as_sentences

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A three-track music model for stable-audio-tools: make music, extract any instrument.",
)


def main() -> None:
    """Entry point: an expected error is one sentence on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with errors_as_sentences():
        app()
