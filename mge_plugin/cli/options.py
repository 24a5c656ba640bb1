"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

ModelConfig = Annotated[Path, typer.Option("--model-config", help="The model's JSON config.")]
Ckpt = Annotated[Path, typer.Option("--ckpt", help="Its weights, .ckpt or .safetensors.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Steps = Annotated[int, typer.Option(help="Sampling steps, 1 or more.")]
CfgScale = Annotated[float, typer.Option(help="Guidance scale; 1 is none.")]
Refine = Annotated[
    str,
    typer.Option(
        help="mask: the source is filtered from the song itself; none: it is what the model made; "
        "auto: mask if the song has a higher rate or more channels than the model."
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
