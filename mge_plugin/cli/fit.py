"""`mge fit-mel` and `mge fit-text-audio`: small parts of a model, fitted in minutes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import without_chatter
from mge_plugin.cli.options import Device, ModelConfig, Seed

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
        from mge_plugin.fitting.mel import create_mel_autoencoder, fit_mel

    config = read_json(model_config)
    model = create_mel_autoencoder(config)
    loader = _loader(dataset_config, config, batch_size)
    batches = _first((reals for reals, _ in loader), -(-windows // batch_size))
    fit = fit_mel(model, batches, whitening)
    _write(model.state_dict(), out)
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
        import torch

        from mge_plugin.config import read_json
        from mge_plugin.fitting.text_audio import create_text_audio, fit_text_audio
        from mge_plugin.inference.pipeline import pick

    config = read_json(model_config)
    torch.manual_seed(seed)
    key, embedder = create_text_audio(config)
    embedder.to(pick(device))
    loader = _endless(_loader(dataset_config, config, batch_size))
    loss = fit_text_audio(embedder, loader, config["sample_rate"], steps, key)
    _write(embedder.state_dict(), out)
    typer.echo(f"Trained for {steps} steps, loss {loss:.3f}: {out}")


def _loader(dataset_config: Path, model: dict[str, Any], batch_size: int) -> Any:
    """SAT's loader of the config, for audio of the model's kind."""
    from stable_audio_tools.data import dataset

    from mge_plugin import registry
    from mge_plugin.config import read_json

    registry.install()
    return dataset.create_dataloader_from_config(
        read_json(dataset_config),
        batch_size=batch_size,
        sample_size=model["sample_size"],
        sample_rate=model["sample_rate"],
        audio_channels=model["audio_channels"],
        num_workers=1,
    )


def _first(batches: Any, count: int) -> Any:
    for number, batch in enumerate(batches):
        if number == count:
            return
        yield batch


def _endless(loader: Any) -> Any:
    """Epoch after epoch."""
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def _write(weights: dict[str, Any], out: Path) -> None:
    from safetensors.torch import save_file

    from mge_plugin.files import written_whole

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with written_whole(out) as partial:
        save_file(contiguous, partial)
