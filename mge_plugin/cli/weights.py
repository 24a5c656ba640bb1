"""`mge import`: weights of the published implementation in and out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mge_plugin.cli.app import app
from mge_plugin.cli.console import without_chatter
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
        from mge_plugin.models.from_tensors import Unseen
        from mge_plugin.models.importing import import_checkpoint, write_weights

        imported = import_checkpoint(ckpt, Unseen(**unseen), autoencoder_only)
    for line in imported.summary():
        typer.echo(line)
    typer.echo(f"Wrote {write_weights(imported.weights, out, origin=ckpt.name)}")
    config = json.dumps(imported.config, indent=4).encode()
    typer.echo(f"Wrote {write_file(config_out, config)}")


def _export(ckpt: Path, out: Path) -> None:
    with without_chatter():
        from mge_plugin.models.importing import export_official

        tensors = export_official(ckpt, out)
    typer.echo(f"Wrote {out}: {tensors} tensors under the published names")
