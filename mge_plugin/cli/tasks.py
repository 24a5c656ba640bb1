"""The model's tasks on files: `mge extract`, `add`, `accompany`, `replace`, `generate`, `compose`.

What a command line asks is checked and becomes jobs before anything slow is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.flat import flat
from mge_plugin.cli.options import (
    BatchOptions,
    ExtractOptions,
    Manifest,
    ModelOptions,
    Number,
    OnePrompt,
    OutputOptions,
    PartOptions,
    PromptOptions,
    Prompts,
    SamplingOptions,
    Seconds,
    Songs,
)

if TYPE_CHECKING:
    from mge_plugin.cli.jobs import Job


@app.command()
@flat
def extract(
    *,
    songs: Songs,
    prompt: Prompts = (),
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    found: ExtractOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Extract the source that each prompt names from songs; the rest is the residual."""
    jobs = _on_songs("extract", songs, prompt, words, how, output, part)
    _run(jobs, how, model, output, size, **vars(found))


@app.command()
@flat
def add(
    *,
    songs: Songs,
    prompt: Prompts = (),
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Add a source for each prompt, in order, to songs; with the new mixture."""
    jobs = _on_songs("add", songs, prompt, words, how, output, part)
    _run(jobs, how, model, output, size)


@app.command()
@flat
def accompany(
    *,
    songs: Songs,
    prompt: OnePrompt = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Make the rest of the band for single sources; with the mixture of both."""
    jobs = _on_songs("accompany", songs, [prompt], words, how, output, part)
    _run(jobs, how, model, output, size)


@app.command()
@flat
def replace(
    *,
    songs: Songs,
    prompt: OnePrompt = None,
    new_prompt: Annotated[str, typer.Option("--with", help="What is to be there instead.")],
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    found: ExtractOptions,
) -> None:
    """Replace an instrument in songs: extract what --prompt names, add what --with names."""
    from mge_plugin.cli.asked import Asked

    new = Asked.of(
        "replace", [new_prompt], PromptOptions(track_prompt=words.track_prompt)
    ).prompts()
    jobs = _on_songs("replace", songs, [prompt], words, how, output, new=new)
    _run(jobs, how, model, output, **vars(found))


@app.command()
@flat
def generate(
    *,
    prompt: OnePrompt = None,
    seconds: Seconds = None,
    number: Number = 1,
    manifest: Manifest = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    part: PartOptions,
    size: BatchOptions,
) -> None:
    """Generate music from a text, or from none."""
    from mge_plugin.cli.asked import Asked
    from mge_plugin.cli.jobs import new_jobs, partly

    asked = Asked.of("generate", [prompt], words)
    jobs = new_jobs(asked, manifest, seconds, how.seed, number, output.out)
    _run(partly(jobs, part), how, model, output, size)


@app.command()
@flat
def compose(
    *,
    prompt: Prompts = (),
    seconds: Seconds = None,
    number: Number = 1,
    manifest: Manifest = None,
    model: ModelOptions,
    output: OutputOptions,
    words: PromptOptions,
    how: SamplingOptions,
    size: BatchOptions,
) -> None:
    """Compose a song source by source: one for each prompt, in order, and their mixture."""
    from mge_plugin.cli.asked import Asked
    from mge_plugin.cli.jobs import new_jobs

    asked = Asked.of("compose", prompt, words)
    jobs = new_jobs(asked, manifest, seconds, how.seed, number, output.out)
    _run(jobs, how, model, output, size)


def _on_songs(
    task: str,
    songs: Sequence[Path],
    prompts: Sequence[str | None],
    words: PromptOptions,
    how: SamplingOptions,
    output: OutputOptions,
    part: PartOptions | None = None,
    new: tuple[Any, ...] = (),
) -> "list[Job]":
    """A job for each song that the arguments name."""
    from mge_plugin.cli.asked import Asked
    from mge_plugin.cli.jobs import partly, song_jobs
    from mge_plugin.cli.songs import find_songs

    asked = Asked.of(task, prompts, words)
    jobs = song_jobs(asked, find_songs(songs, output.out), how.seed, output.out, new)
    return jobs if part is None else partly(jobs, part)


def _run(
    jobs: "Sequence[Job]",
    how: SamplingOptions,
    model: ModelOptions,
    output: OutputOptions,
    size: BatchOptions | None = None,
    **mastering: Any,
) -> None:
    """Make the jobs' results with all that was asked."""
    from mge_plugin.cli.batch import run_jobs

    together = 1 if size is None else size.batch
    run_jobs(jobs, how.sampling(**mastering), model, output, together)
