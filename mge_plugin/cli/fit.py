"""`mge fit-mel`, `mge fit-text-audio`, `mge make-weights`: small models, made in one go."""

from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import without_chatter
from mge_plugin.cli.options import Device, ModelConfig, Out, Seed

DatasetConfig = Annotated[Path, typer.Option(help="A dataset config of type mge_triplets.")]
File = Annotated[Path, typer.Option("--out", help="The .safetensors to write.")]
Batch = Annotated[int, typer.Option(min=2, help="Windows at a time.")]


@app.command("fit-mel")
def fit_mel_command(
    model_config: ModelConfig,
    dataset_config: Annotated[Path, typer.Option(help="A dataset config of type mge_tracks.")],
    out: File,
    windows: Annotated[int, typer.Option(min=1, help="How many to fit to.")] = 1000,
    whitening: Annotated[
        float, typer.Option(help="0: latents as their powers are; 1: all of one power.")
    ] = 0.5,
    batch_size: Batch = 8,
) -> None:
    """Fit an autoencoder of type mge_mel to a corpus: principal components, in closed form."""
    with without_chatter():
        from mge_plugin.config import read_json
        from mge_plugin.fitting.mel import fit_mel_file

    fit = fit_mel_file(
        read_json(model_config),
        read_json(dataset_config),
        out,
        windows=windows,
        whitening=whitening,
        batch_size=batch_size,
    )
    typer.echo(
        f"Fitted to {fit.frames} latent frames, {100 * fit.kept:.1f} % of the variance kept: {out}"
    )


@app.command("fit-text-audio")
def fit_text_audio_command(
    model_config: ModelConfig,
    dataset_config: DatasetConfig,
    out: File,
    steps: Annotated[int, typer.Option(min=1, help="Of training, a batch each.")] = 1500,
    batch_size: Batch = 32,
    seed: Seed = 42,
    device: Device = "auto",
) -> None:
    """Train the model's mge_text_audio conditioner on a corpus's stems and their labels."""
    with without_chatter():
        from mge_plugin.config import read_json
        from mge_plugin.fitting.text_audio import fit_text_audio_file
        from mge_plugin.inference.pipeline import pick

    loss = fit_text_audio_file(
        read_json(model_config),
        read_json(dataset_config),
        out,
        steps=steps,
        batch_size=batch_size,
        device=pick(device),
        seed=seed,
    )
    typer.echo(f"Trained for {steps} steps, loss {loss:.3f}: {out}")


@app.command("make-weights")
def make_weights_command(
    out: Out,
    work: Annotated[Path, typer.Option(help="Folder for corpus, latents and what is trained.")],
    device: Device = "auto",
) -> None:
    """Make the weights that ship, from nothing: corpus, autoencoder, text and audio, denoiser.

    Started again after a stop, it goes on where it was.
    """
    with without_chatter():
        from mge_plugin.fitting.recipe import make_weights
        from mge_plugin.inference.pipeline import pick

    typer.echo(f"Wrote {make_weights(work, out, pick(device))}")
