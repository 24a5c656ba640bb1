"""`mge minislakh`, `mge index`: corpora on disk. `mge encode`: songs to latents, for training."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mge_plugin.cli.app import app, complain, say, slow_module
from mge_plugin.cli.options import Ckpt, Device, ModelConfig, Out, Seed
from mge_plugin.config import parse_section, read_json
from mge_plugin.files import write_json
from mge_plugin.launcher import quietly


@app.command("minislakh")
def _minislakh(
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
    minislakh = slow_module("minislakh")
    sound = minislakh.Sound(tuple(soundfont or ()), effects, core)
    folder = minislakh.write_corpus(out, songs, seconds, seed, sound=sound, workers=workers)
    say(f"Wrote {folder}")


@app.command("index")
def _index(
    dataset_config: Annotated[
        Path, typer.Argument(help="A dataset config, or a folder with one folder per song.")
    ],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too.")] = None,
    check_sums: Annotated[bool, typer.Option(help="Compare sums of stems with mixtures.")] = False,
    check_stems: Annotated[bool, typer.Option(help="Find stems of noise or one tone.")] = False,
) -> None:
    """List what a dataset config finds: songs, hours, stems per label, what is left out and why."""
    indexing = slow_module("mge_plugin.data.corpora.index")
    verify = slow_module("mge_plugin.data.corpora.verify")
    corpora, problems = verify.index_config(dataset_config, check_sums, check_stems)
    summaries = [indexing.summarize(corpus) for corpus in corpora]
    for line in (line for summary in summaries for line in indexing.table(summary)):
        say(line)
    for problem in problems:
        complain(f"problem: {problem}")
    if json_out is not None:
        write_json(json_out, {"corpora": summaries, "problems": problems}, 4)
    if problems:
        raise typer.Exit(1)


_SHOWN = 10  # songs left out that are listed


@app.command("encode")
def _encode(
    model_config: ModelConfig,
    ckpt: Ckpt,
    dataset_config: Annotated[Path, typer.Option(help="A dataset config of type mge_triplets.")],
    out: Out,
    posterior: Annotated[
        str,
        typer.Option(help="full: training can sample a VAE's posterior; mean: half the size."),
    ] = "full",
    dtype: Annotated[str, typer.Option(help="On disk: float16, bfloat16 or float32.")] = "float16",
    precision: Annotated[
        str, typer.Option(help="Of the encoder: bfloat16 or float32; auto: bfloat16 on a GPU.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Waveforms encoded at a time.")] = 4,
    chunk: Annotated[float, typer.Option(help="Seconds of a song at a time; 0: all of it.")] = 30.0,
    clap: Annotated[
        bool,
        typer.Option(help="Store audio embeddings too, if the model's conditioner supports audio."),
    ] = True,
    clap_every: Annotated[float, typer.Option(help="Seconds between two embeddings.")] = 2.0,
    partial_sums: Annotated[
        int, typer.Option(help="Orders in which stems are added one by one; every sum is encoded.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="Threads that read songs.")] = 2,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Write WebDataset shards of this many MB too.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Encode a corpus into latents, to train with dataset_type mge_latents and pre_encoded.

    Run it under torchrun to use several GPUs or machines; run it again to resume after a stop.
    """
    encoding = slow_module("mge_plugin.data.latents.encode")
    ranks = encoding.Ranks.of(os.environ)
    store = slow_module("mge_plugin.data.latents.store").Store(out)
    if shards is not None and ranks.world > 1:
        raise ValueError(
            "shards are written by one process: run the same command once more without torchrun, "
            "it encodes nothing again"
        )
    values = {
        "posterior": posterior,
        "dtype": dtype,
        "precision": precision,
        "batch_size": batch_size,
        "chunk": chunk,
        "clap": clap,
        "clap_every": clap_every,
        "partial_sums": partial_sums,
        "device": device,
        "threads": threads,
    }
    settings = parse_section(encoding.Settings, values, "mge encode")
    corpora = encoding.read_corpora(dataset_config)
    with quietly():
        encoder = encoding.create_encoder(
            read_json(model_config), ckpt, settings, ranks.device(device)
        )
    report = encoding.encode_corpora(corpora, encoder, store, ranks)
    _print_report(report, ranks, out)
    if report.songs and len(report.left_out) == report.songs:
        raise typer.Exit(1)
    if shards is not None:
        written = slow_module("mge_plugin.data.latents.shards").write_shards(store, shards)
        say(f"Wrote {len(written)} shards to {store.root / 'shards'}")


def _print_report(report: Any, ranks: Any, out: Path) -> None:
    rank = f"rank {ranks.rank} of {ranks.world}: " if ranks.world > 1 else ""
    say(
        f"{rank}{report.encoded} songs encoded, {report.present} of {report.songs} songs were "
        f"there already, {len(report.left_out)} left out: {out}"
    )
    if report.renewed:
        say(f"{rank}{report.renewed} were encoded again: their stems or labels have changed")
    for song, reason in list(report.left_out.items())[:_SHOWN]:
        complain(f"{rank}left out: {song}: {reason}")
    if len(report.left_out) > _SHOWN:
        complain(f"{rank}and {len(report.left_out) - _SHOWN} more")
