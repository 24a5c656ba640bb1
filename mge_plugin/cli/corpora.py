"""`mge encode`: songs to latents on disk, to train on later.

`mge minislakh`, `mge index`: corpora on disk.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mge_plugin.cli.app import app, complain, without_chatter
from mge_plugin.cli.options import Ckpt, Device, ModelConfig, Out, Seed

if TYPE_CHECKING:
    from mge_plugin.data.latents.encode import Ranks, Report


@app.command()
def minislakh(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    songs: Annotated[int, typer.Option(min=1, help="Number of songs.")] = 20,
    seconds: Annotated[float, typer.Option(help="Length of a song.")] = 30.0,
    seed: Seed = 0,
    soundfont: Annotated[
        list[Path] | None,
        typer.Option(
            help="SoundFont that plays the instruments; can be repeated: each instrument of a song "
            "is played by one of them. Default: TimGM6mb, which pretty_midi includes.",
        ),
    ] = None,
    effects: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of songs with equalizer, drive and reverb."),
    ] = 0.0,
    core: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of songs of bass, drums, guitar and piano alone."),
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Compose and render a small corpus in Slakh2100's layout."""
    from minislakh import Sound, write_corpus

    sound = Sound(tuple(soundfont or ()), effects, core)
    typer.echo(f"Wrote {write_corpus(out, songs, seconds, seed, sound=sound, workers=workers)}")


@app.command()
def index(
    dataset_config: Annotated[Path, typer.Argument(help="A dataset config.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too.")] = None,
    check_sums: Annotated[bool, typer.Option(help="Compare sums of stems with mixtures.")] = False,
    check_stems: Annotated[bool, typer.Option(help="Find stems of noise or one tone.")] = False,
) -> None:
    """Say what a dataset config finds: songs, hours, stems a label, what is left out and why."""
    from mge_plugin.data.corpora.index import summarize, table
    from mge_plugin.data.corpora.verify import index_config
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


_SHOWN = 10  # songs left out that are named


@app.command()
def encode(
    model_config: ModelConfig,
    ckpt: Ckpt,
    dataset_config: Annotated[Path, typer.Option(help="A dataset config of type mge_triplets.")],
    out: Out,
    posterior: Annotated[
        str,
        typer.Option(help="full: training may draw from a VAE's posterior; mean: half the size."),
    ] = "full",
    dtype: Annotated[str, typer.Option(help="On disk: float16, bfloat16 or float32.")] = "float16",
    precision: Annotated[
        str, typer.Option(help="Of the encoder: bfloat16 or float32; auto: bfloat16 on a GPU.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Waveforms encoded at a time.")] = 4,
    chunk: Annotated[float, typer.Option(help="Seconds of a song at a time; 0: all of it.")] = 30.0,
    clap: Annotated[
        bool, typer.Option(help="Audio embeddings too, if a conditioner of the model hears.")
    ] = True,
    clap_every: Annotated[float, typer.Option(help="Seconds between two embeddings.")] = 2.0,
    partial_sums: Annotated[
        int, typer.Option(help="Orders in which stems are added one by one; every sum is encoded.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="That read ahead.")] = 2,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Write WebDataset shards of so many MB as well.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Encode a corpus into latents, to train with dataset_type mge_latents and pre_encoded.

    Run it under torchrun to use several GPUs or machines; run it again to go on after a stop.
    """
    with without_chatter():
        from mge_plugin.config import read_json
        from mge_plugin.data.latents.encode import (
            Ranks,
            create_encoder,
            encode_corpora,
            read_corpora,
        )
        from mge_plugin.data.latents.store import Store

    ranks, store = Ranks.of(os.environ), Store(out)
    if shards is not None and ranks.world > 1:
        raise ValueError(
            "shards are written by one process: run the same command once more without torchrun, "
            "it encodes nothing again"
        )
    settings = _settings(
        posterior=posterior,
        dtype=dtype,
        precision=precision,
        batch_size=batch_size,
        chunk=chunk,
        clap=clap,
        clap_every=clap_every,
        partial_sums=partial_sums,
        device=device,
        threads=threads,
    )
    corpora, config = read_corpora(dataset_config), read_json(model_config)
    with without_chatter():
        encoder = create_encoder(config, ckpt, settings, ranks.device(device))
    report = encode_corpora(corpora, encoder, store, ranks)
    _tell(report, ranks, out)
    if report.songs and len(report.left_out) == report.songs:
        raise typer.Exit(1)
    if shards is not None:
        _write_shards(store, shards)


def _settings(**values: Any) -> Any:
    from mge_plugin.config import parse_section
    from mge_plugin.data.latents.encode import Settings

    return parse_section(Settings, values, "mge encode")


def _tell(report: "Report", ranks: "Ranks", out: Path) -> None:
    who = f"rank {ranks.rank} of {ranks.world}: " if ranks.world > 1 else ""
    typer.echo(
        f"{who}{report.encoded} songs encoded, {report.present} of {report.songs} songs were there "
        f"already, {len(report.left_out)} left out: {out}"
    )
    if report.renewed:
        typer.echo(f"{who}{report.renewed} were encoded anew: their stems or labels have changed")
    for song, reason in list(report.left_out.items())[:_SHOWN]:
        complain(f"{who}left out: {song}: {reason}")
    if len(report.left_out) > _SHOWN:
        complain(f"{who}and {len(report.left_out) - _SHOWN} more")


def _write_shards(store: Any, megabytes: int) -> None:
    from mge_plugin.data.latents.shards import write_shards

    written = write_shards(store, megabytes)
    typer.echo(f"Wrote {len(written)} shards to {store.root / 'shards'}")
