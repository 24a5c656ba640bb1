"""`mge minislakh`, `mge index`: corpora on disk."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import complain
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


@app.command()
def index(
    dataset_config: Annotated[Path, typer.Argument(help="A dataset config.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too.")] = None,
    check_sums: Annotated[bool, typer.Option(help="Compare sums of stems with mixtures.")] = False,
    check_stems: Annotated[bool, typer.Option(help="Find stems of noise or one tone.")] = False,
) -> None:
    """Say what a dataset config finds: songs, hours, stems a label, what is left out and why."""
    from mge_plugin.data.corpora.configured import index_config
    from mge_plugin.data.corpora.summary import summarize, table
    from mge_plugin.files import write_file

    corpora, problems = index_config(dataset_config, check_sums, check_stems)
    summaries = [summarize(corpus) for corpus in corpora]
    for line in (line for summary in summaries for line in table(summary)):
        typer.echo(line.encode(errors="backslashreplace").decode())
    for problem in problems:
        complain(f"problem: {problem}")
    if json_out is not None:
        text = json.dumps({"corpora": summaries, "problems": problems}, indent=4)
        write_file(json_out, text.encode())
    if problems:
        raise typer.Exit(1)
