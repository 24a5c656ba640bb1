"""`mge fit-mel`, `mge fit-text-audio`, `mge make-weights`: small models, made in one go.

`mge import`: weights of the published implementation in and out.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mge_plugin.cli.app import app, without_chatter
from mge_plugin.cli.options import Device, ModelConfig, Out, Seed
from mge_plugin.files import write_file


@app.command("import")
def import_(
    ckpt: Annotated[Path, typer.Argument(help="The published file, or an autoencoder.")],
    out: Annotated[Path, typer.Option(help="The weights to write, .safetensors.")],
    config_out: Annotated[
        Path | None, typer.Option(help="The model config to write; beside the weights if absent.")
    ] = None,
    to_official: Annotated[
        bool,
        typer.Option("--to-official", help="The other way: from ours, a file of torch.save's."),
    ] = False,
    autoencoder_only: Annotated[
        bool,
        typer.Option("--autoencoder-only", help="Take the autoencoder out of a whole model."),
    ] = False,
    norm_type: Annotated[
        str | None, typer.Option(help="groupnorm, or layernorm.", show_default="groupnorm")
    ] = None,
    sample_rate: Annotated[
        int | None, typer.Option(min=1, help="Of the model, Hz.", show_default="16000")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Latent frames of a window.", show_default="100")
    ] = None,
    clap_ckpt: Annotated[str | None, typer.Option(help="CLAP's file, for the config.")] = None,
    clap_tokenizer: Annotated[str | None, typer.Option(help="RoBERTa's folder, likewise.")] = None,
) -> None:
    """Turn the published implementation's checkpoint into ours, with its config, or back."""
    unseen = {
        "norm_type": norm_type,
        "sample_rate": sample_rate,
        "frames": frames,
        "clap_ckpt": clap_ckpt,
        "clap_tokenizer": clap_tokenizer,
    }
    unseen = {name: value for name, value in unseen.items() if value is not None}
    _check_out(ckpt, out, to_official)
    if config_out is not None and config_out.suffix.lower() != ".json":
        raise ValueError(
            f"--config-out: expected a name ending in .json, found {config_out.name!r}"
        )
    if not to_official:
        _import(ckpt, out, config_out or out.with_suffix(".json"), autoencoder_only, unseen)
        return
    config_options = {"config_out": config_out, "autoencoder_only": autoencoder_only} | unseen
    if given := [name for name, value in config_options.items() if value]:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--to-official writes weights only: leave out {options}")
    _export(ckpt, out)


def _check_out(ckpt: Path, out: Path, to_official: bool) -> None:
    is_safetensors = out.suffix.lower() == ".safetensors"
    if to_official and is_safetensors:
        raise ValueError(f"--out: expected a name ending in .ckpt, found {out.name!r}")
    if not to_official and not is_safetensors:
        raise ValueError(f"--out: expected a name ending in .safetensors, found {out.name!r}")
    if out.exists() and ckpt.exists() and out.samefile(ckpt):
        raise ValueError(f"--out: {out} is the file to be read; choose another name")


def _import(
    ckpt: Path, out: Path, config_out: Path, autoencoder_only: bool, unseen: dict[str, Any]
) -> None:
    with without_chatter():
        from mge_plugin.models.published import Unseen, import_checkpoint, write_weights

        imported = import_checkpoint(ckpt, Unseen(**unseen), autoencoder_only)
    for line in imported.summary():
        typer.echo(line)
    typer.echo(f"Wrote {write_weights(imported.weights, out, origin=ckpt.name)}")
    config = json.dumps(imported.config, indent=4).encode()
    typer.echo(f"Wrote {write_file(config_out, config)}")


def _export(ckpt: Path, out: Path) -> None:
    with without_chatter():
        from mge_plugin.models.published import export_official

        tensors = export_official(ckpt, out)
    typer.echo(f"Wrote {out}: {tensors} tensors under the published names")


_DatasetConfig = Annotated[Path, typer.Option(help="A dataset config of type mge_triplets.")]
_File = Annotated[Path, typer.Option("--out", help="The .safetensors to write.")]
Batch = Annotated[int, typer.Option(min=2, help="Windows at a time.")]


@app.command("fit-mel")
def fit_mel_command(
    model_config: ModelConfig,
    dataset_config: Annotated[Path, typer.Option(help="A dataset config of type mge_tracks.")],
    out: _File,
    windows: Annotated[int, typer.Option(min=1, help="How many to fit to.")] = 1000,
    whitening: Annotated[
        float, typer.Option(help="0: latents as their powers are; 1: all of one power.")
    ] = 0.5,
    batch_size: Batch = 8,
) -> None:
    """Fit an autoencoder of type mge_mel to a corpus: principal components, in closed form."""
    with without_chatter():
        from mge_plugin.config import read_json
        from mge_plugin.standins.fit import fit_mel_file

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
    dataset_config: _DatasetConfig,
    out: _File,
    steps: Annotated[int, typer.Option(min=1, help="Of training, a batch each.")] = 1500,
    batch_size: Batch = 32,
    seed: Seed = 42,
    device: Device = "auto",
) -> None:
    """Train the model's mge_text_audio conditioner on a corpus's stems and their labels."""
    with without_chatter():
        from mge_plugin.config import read_json
        from mge_plugin.inference.pipeline import pick
        from mge_plugin.standins.fit import fit_text_audio_file

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
        from mge_plugin.inference.pipeline import pick
        from mge_plugin.standins.recipe import make_weights

    typer.echo(f"Wrote {make_weights(work, out, pick(device))}")
