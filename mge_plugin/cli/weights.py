"""`mge import`: weights of the published implementation in and out."""

import json
from pathlib import Path
from typing import Annotated

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
        typer.Option("--to-official", help="The other way round, from ours."),
    ] = False,
    norm_type: Annotated[str, typer.Option(help="groupnorm, or layernorm.")] = "groupnorm",
    sample_rate: Annotated[int, typer.Option(min=1, help="Of the model, Hz.")] = 16000,
    frames: Annotated[int, typer.Option(min=1, help="Latent frames of a window.")] = 100,
    clap_ckpt: Annotated[
        str | None, typer.Option(help="CLAP's file, for the config.")
    ] = None,
    clap_tokenizer: Annotated[str | None, typer.Option(help="RoBERTa's folder, likewise.")] = None,
) -> None:
    """Turn the published implementation's checkpoint into ours, with its config, or back."""
    with without_chatter():
        from mge_plugin.models import importing
    if to_official:
        tensors = importing.export_official(ckpt, out)
        typer.echo(f"Wrote {out}: {tensors} tensors under the published names")
        return
    if out.suffix.lower() != ".safetensors":
        raise ValueError(f"--out: expected a name ending in .safetensors, found {out.name!r}")
    if norm_type not in ("groupnorm", "layernorm"):
        raise ValueError(f"--norm-type: expected groupnorm or layernorm, found {norm_type!r}")
    paths = {"clap_ckpt": clap_ckpt, "clap_tokenizer": clap_tokenizer}
    given = {name: path for name, path in paths.items() if path is not None}
    unseen = importing.Unseen(norm_type, sample_rate, frames, **given)
    imported = importing.import_checkpoint(ckpt, unseen)
    for line in imported.summary():
        typer.echo(line)
    typer.echo(f"Wrote {importing.write_weights(imported.weights, out)}")
    config_out = config_out or out.with_suffix(".json")
    config = json.dumps(imported.config, indent=4).encode()
    typer.echo(f"Wrote {write_file(config_out, config)}")
