"""`mge minislakh`: corpora on disk."""

from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.options import Seed


@app.command()
def minislakh(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    songs: Annotated[int, typer.Option(min=1, help="Number of songs.")] = 20,
    seconds: Annotated[float, typer.Option(help="Length of a song.")] = 30.0,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Compose and render a small corpus in Slakh2100's layout."""
    from mge_plugin.data.minislakh import write_corpus

    typer.echo(f"Wrote {write_corpus(out, songs, seconds, seed, workers=workers)}")
