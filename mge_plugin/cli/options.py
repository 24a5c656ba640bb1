"""Options that several commands share, so that they are the same everywhere."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mge_plugin.cli.app import flag
from mge_plugin.config import option
from mge_plugin.models.hub import DEFAULT_MODEL, MODEL_VARIABLE, ModelFiles, find_model

DTYPES = ("auto", "float32", "bfloat16", "float16")
FORMATS = ("wav", "flac")
_LAYOUTS = ("flat", "folders")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

ModelConfig = Annotated[Path, typer.Option("--model-config", help="Model config, JSON.")]
Ckpt = Annotated[Path, typer.Option("--ckpt", help="Its weights, .ckpt or .safetensors.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What to extract or to generate."""

    prompt: tuple[str, ...] = option(
        (), 'Text, e.g. "The sound of the bass"; repeatable where a task takes several.',
        group="Prompts",
    )  # fmt: skip
    negative: str | None = option(None, "Negative prompt.", group="Prompts")
    example: tuple[Path, ...] = option(
        (), "Reference audio; can be combined with --prompt and repeated.", group="Prompts"
    )
    text_weight: float = option(
        0.5, "Weight of the text where there is an example too, 0 to 1.", group="Prompts"
    )
    track_prompt: tuple[str, ...] = option(
        (), "TRACK=TEXT: prompt of another track (mixture, submixture, source).", group="Prompts"
    )


@dataclass(frozen=True, kw_only=True)
class ReplaceOptions:
    """The new source of a replacement."""

    new_prompt: str = flag("--with", "", "Prompt of the new source.", group="Prompts")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Which sources to extract, besides prompts."""

    minus: tuple[str, ...] = option(
        (), "Write everything but this source; repeatable.", group="Prompts"
    )
    all: bool = option(
        False, "Extract each of the model's labels that is in the song.", group="Prompts"
    )
    chain: bool = option(
        False, "Extract each source from the residual of the one before.", group="Prompts"
    )


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Music that is generated without a song."""

    seconds: float | None = option(None, "Length; one window of the model by default.")
    number: int = option(1, "Number of results, with seeds from --seed up.", low=1)
    manifest: Path | None = option(
        None, ".jsonl with one result per line: prompt, negative, seed, seconds, name."
    )


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Audio of the prompted track to keep, or to start from."""

    keep: Path | None = option(
        None, "The track, of which only --redo is generated again.", group="Part of a track"
    )
    redo: tuple[str, ...] = option(
        (), "START-END in seconds or m:ss, e.g. 0:40-0:52; repeatable.", group="Part of a track"
    )
    init: Path | None = option(
        None, "Initial audio of the track, for a variation of it.", group="Part of a track"
    )
    init_level: float = option(
        0.7, "Noise added to --init: over 0 (almost unchanged) to 1.", group="Part of a track"
    )


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model and its device."""

    model: str | None = option(
        None,
        f"Shipped weights, a folder, a file, or a Hub id such as user/repo@revision. Default: "
        f"${MODEL_VARIABLE}, else {DEFAULT_MODEL}. See `mge models`.",
        group="Model",
    )
    model_config: Path | None = option(None, "Model config (JSON) of --ckpt.", group="Model")
    ckpt: Path | None = option(None, "Weights, .ckpt or .safetensors.", group="Model")
    device: str = option("auto", "auto, cuda, cuda:1 ..., mps or cpu.", group="Machine")

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(
                f"device: expected auto or one of cuda, mps, cpu, found {self.device!r}"
            )

    def find(self) -> ModelFiles:
        """The model's files."""
        if self.model is None:
            return find_model(self.model_config, self.ckpt)
        if self.model_config is not None or self.ckpt is not None:
            raise ValueError("--model: names config and weights, leave out --model-config, --ckpt")
        return find_model(self.model)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelChoice):
    """The model and how it runs."""

    paper: bool = option(
        False, "The paper's sampling: 250 steps of ddim, guidance 2.", group="Sampling"
    )
    dtype: str = option(
        "auto", "Of the network; auto is bfloat16 on a GPU.", group="Machine", choices=DTYPES
    )
    compile: bool = option(
        False, "Compile the network first: worth it for more than one song.", group="Machine"
    )
    batch: int = option(1, "Songs denoised together.", group="Machine", low=1)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the results go and in which form."""

    out: Path = option(Path("."), "Folder for the results.", group="Output")
    format: str = option("wav", "wav (float) or flac (24 bits).", group="Output", choices=FORMATS)
    layout: str = option(
        "flat", "song_bass.wav, or song/bass.wav.", group="Output", choices=_LAYOUTS
    )
    overwrite: bool = option(False, "Replace results that exist.", group="Output")
    json: bool = option(False, "Print the results as one JSON object.", group="Output")

    def make_folder(self) -> None:
        """Create the folder before anything slow is computed to be written there."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise ValueError(f"--out: {self.out} cannot be written to")
