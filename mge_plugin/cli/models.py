"""`mge models`: the models that can be named. `mge import`: published weights in and out.

`mge fit-mel`, `mge fit-text-audio`, `mge make-weights`: small models that stand in for large ones.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from mge_plugin.cli.app import app, say, slow_module
from mge_plugin.cli.options import Device, ModelConfig, Out, Seed
from mge_plugin.config import read_json
from mge_plugin.files import write_json
from mge_plugin.inference.request import Sampling
from mge_plugin.models.hub import ModelFiles, available_models


@app.command("models")
def _models() -> None:
    """List the models that --model takes by name: shipped weights and the Hub's cache."""
    for model in available_models():
        for line in _described(model):
            say(line)


def _described(model: ModelFiles) -> list[str]:
    config, sampling = model.config, Sampling.of_model(model.config)
    rate, channels = config["sample_rate"], config.get("audio_channels", 2)
    form = f"{rate} Hz, {channels} channel{'s' * (channels > 1)}"
    window = f"windows of {config['sample_size'] / rate:.2f} s"
    size = f"{model.ckpt.stat().st_size / 1e6:.0f} MB"
    scale = sampling.cfg_scale
    return [
        f"{model.name}: {size}, {form}, {window}, license {model.card.license or 'not stated'}",
        f"  labels: {', '.join(model.card.labels) or 'not stated'}",
        f"  sampling: {sampling.sampler}, {sampling.steps} steps, guidance {scale}, "
        f"{sampling.candidates} candidate{'s' * (sampling.candidates > 1)}",
    ]


@app.command("import")
def _convert(
    ckpt: Annotated[Path, typer.Argument(help="The published file, or an autoencoder.")],
    out: Annotated[Path, typer.Option(help="The weights to write, .safetensors.")],
    config_out: Annotated[
        Path | None, typer.Option(help="The model config to write; beside the weights if absent.")
    ] = None,
    to_official: Annotated[
        bool,
        typer.Option("--to-official", help="Convert back: from ours to a .ckpt of theirs."),
    ] = False,
    autoencoder_only: Annotated[
        bool,
        typer.Option("--autoencoder-only", help="Take the autoencoder out of a whole model."),
    ] = False,
    norm_type: Annotated[
        str | None, typer.Option(help="groupnorm, or layernorm.", show_default="groupnorm")
    ] = None,
    sample_rate: Annotated[
        int | None, typer.Option(min=1, help="Sample rate of the model, Hz.", show_default="16000")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Latent frames per window.", show_default="100")
    ] = None,
    clap_ckpt: Annotated[
        str | None, typer.Option(help="CLAP's checkpoint, for the config.")
    ] = None,
    clap_tokenizer: Annotated[
        str | None, typer.Option(help="RoBERTa's folder, for the config.")
    ] = None,
) -> None:
    """Convert the published implementation's checkpoint to ours, with its config, or back."""
    given: dict[str, Any] = {
        "norm_type": norm_type,
        "sample_rate": sample_rate,
        "frames": frames,
        "clap_ckpt": clap_ckpt,
        "clap_tokenizer": clap_tokenizer,
    }
    given = {name: value for name, value in given.items() if value is not None}
    _check_out(ckpt, out, to_official)
    if config_out is not None and config_out.suffix.lower() != ".json":
        raise ValueError(
            f"--config-out: expected a name ending in .json, found {config_out.name!r}"
        )
    if not to_official:
        _import(ckpt, out, config_out or out.with_suffix(".json"), autoencoder_only, given)
        return
    config_options = {"config_out": config_out, "autoencoder_only": autoencoder_only} | given
    if used := [name for name, value in config_options.items() if value]:
        options = ", ".join("--" + name.replace("_", "-") for name in used)
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
    checkpoints = slow_module("mge_plugin.models.checkpoints")
    checkpoints.read_checkpoint(ckpt)  # refuses what is no checkpoint before SAT is imported
    published = slow_module("mge_plugin.models.published")
    imported = published.import_checkpoint(ckpt, published.Unseen(**unseen), autoencoder_only)
    for line in imported.summary():
        say(line)
    say(f"Wrote {checkpoints.write_weights(imported.weights, out, origin=ckpt.name)}")
    say(f"Wrote {write_json(config_out, imported.config, 4)}")


def _export(ckpt: Path, out: Path) -> None:
    tensors = slow_module("mge_plugin.models.published").export_official(ckpt, out)
    say(f"Wrote {out}: {tensors} tensors under the published names")


_DatasetConfig = Annotated[Path, typer.Option(help="A dataset config of type mge_triplets.")]
_File = Annotated[Path, typer.Option("--out", help="The .safetensors to write.")]
Batch = Annotated[int, typer.Option(min=2, help="Windows per batch.")]


@app.command("fit-mel")
def _fit_mel(
    model_config: ModelConfig,
    dataset_config: Annotated[Path, typer.Option(help="A dataset config of type mge_tracks.")],
    out: _File,
    windows: Annotated[int, typer.Option(min=1, help="Number of windows to fit to.")] = 1000,
    whitening: Annotated[
        float, typer.Option(help="0: latents keep their powers; 1: all have equal power.")
    ] = 0.5,
    batch_size: Batch = 8,
) -> None:
    """Fit an autoencoder of type mge_mel to a corpus: principal components, in closed form."""
    fit = slow_module("mge_plugin.standins.fit").fit_mel_file(
        read_json(model_config),
        read_json(dataset_config),
        out,
        windows=windows,
        whitening=whitening,
        batch_size=batch_size,
    )
    say(f"Fitted to {fit.frames} latent frames, {100 * fit.kept:.1f} % of the variance kept: {out}")


@app.command("fit-text-audio")
def _fit_text_audio(
    model_config: ModelConfig,
    dataset_config: _DatasetConfig,
    out: _File,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1500,
    batch_size: Batch = 32,
    seed: Seed = 42,
    device: Device = "auto",
) -> None:
    """Train the model's mge_text_audio conditioner on a corpus's stems and their labels."""
    loss = slow_module("mge_plugin.standins.fit").fit_text_audio_file(
        read_json(model_config),
        read_json(dataset_config),
        out,
        steps=steps,
        batch_size=batch_size,
        device=slow_module("mge_plugin.devices").pick(device),
        seed=seed,
    )
    say(f"Trained for {steps} steps, loss {loss:.3f}: {out}")


@app.command("make-weights")
def _make_weights(
    out: Out,
    work: Annotated[Path, typer.Option(help="Folder for the corpus, latents and training runs.")],
    device: Device = "auto",
) -> None:
    """Train the shipped weights from scratch: corpus, autoencoder, text and audio, denoiser.

    Run it again to resume after a stop.
    """
    device = slow_module("mge_plugin.devices").pick(device)
    make_weights = slow_module("mge_plugin.standins.recipe").make_weights
    say(f"Wrote {make_weights(work, out, device)}")
