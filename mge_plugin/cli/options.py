"""Options that several commands share, so that they read the same everywhere."""

import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mge_plugin.cli.app import numbers, span
from mge_plugin.config import choose, read_json
from mge_plugin.inference.request import OUR_SAMPLERS, SAT_SAMPLERS

if TYPE_CHECKING:
    from mge_plugin.inference.request import Finish, Sampling

V_SAMPLERS, FLOW_SAMPLERS = SAT_SAMPLERS["v"], SAT_SAMPLERS["rectified_flow"]
SAMPLERS = (*OUR_SAMPLERS, *V_SAMPLERS, *FLOW_SAMPLERS)
DTYPES = ("auto", "float32", "bfloat16", "float16")
FORMATS = ("wav", "flac")

ModelConfig = Annotated[Path, typer.Option("--model-config", help="The model's JSON config.")]
Ckpt = Annotated[Path, typer.Option("--ckpt", help="Its weights, .ckpt or .safetensors.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]

_prompts = partial(typer.Option, rich_help_panel="Prompts")
_sampling = partial(typer.Option, rich_help_panel="Sampling")
_guidance = partial(typer.Option, rich_help_panel="Guidance")
_extraction = partial(typer.Option, rich_help_panel="Extraction")
_part = partial(typer.Option, rich_help_panel="Only a part anew")
_machine = partial(typer.Option, rich_help_panel="Machine")

Prompts = Annotated[list[str], typer.Option(help='E.g. "the sound of the bass"; repeatable.')]
OnePrompt = Annotated[str | None, typer.Option(help='E.g. "a slow ballad"; none: any music.')]
Seconds = Annotated[float | None, typer.Option(help="Length; one window of the model if absent.")]
Number = Annotated[int, typer.Option(min=1, help="Results: of seed, seed + 1, ...")]
Manifest = Annotated[
    Path | None,
    typer.Option(help="A .jsonl with a result a line: prompt, negative, seed, seconds, name."),
]
Songs = Annotated[
    list[Path],
    typer.Argument(
        metavar="SONG",
        help="Audio files, folders of them, or manifests: .jsonl with an object a line, whose "
        "audio is a path beside it; and prompt, negative, seed, name.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What is asked besides --prompt."""

    negative: Annotated[str | None, _prompts(help="What to move away from.")] = None
    example: Annotated[
        list[Path],
        _prompts(help="Audio like what is asked, with a --prompt or alone; repeatable as it is."),
    ] = field(default_factory=list)
    text_weight: Annotated[
        float, _prompts(help="Share of the text where there is an example too, 0 to 1.")
    ] = 0.5
    track_prompt: Annotated[
        list[str],
        _prompts(
            help="A text for another track than the prompted one: mixture, submixture or source.",
            metavar="TRACK=TEXT",
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample."""

    steps: Annotated[int, _sampling(help="Sampling steps, 1 or more.")] = 250
    seed: Annotated[int, _sampling(help="The same seed gives the same result.")] = 0
    sampler: Annotated[
        str,
        _sampling(
            help=f"{', '.join(OUR_SAMPLERS)}; stable-audio-tools' own {', '.join(V_SAMPLERS)}; "
            f"for rectified flow {', '.join(FLOW_SAMPLERS)}."
        ),
    ] = "ddim"
    schedule: Annotated[str, _sampling(help="Noise levels: linear or log-snr.")] = "linear"
    eta: Annotated[float, _sampling(help="Of ddim: share of new noise in a step, 0 to 1.")] = 0.0
    resamplings: Annotated[int, _sampling(help="Of repaint: passes over a step.")] = 1
    candidates: Annotated[int, _sampling(help="Seeds tried; the best result is kept.")] = 1
    long_form: Annotated[
        str, _sampling(help="Windows of a long song: joint, or sequential (outpainting).")
    ] = "joint"
    window_batch: Annotated[
        int, _machine(help="Windows denoised together: fewer need less memory.")
    ] = 4
    cfg_scale: Annotated[
        str,
        _guidance(help="Guidance; 1 is none. Or of mixture,submixture,source.", metavar="NUMBER"),
    ] = "2.0"
    cfg_interval: Annotated[
        str, _guidance(help="Shares of noise between which it acts.", metavar="LOW,HIGH")
    ] = "0,1"
    cfg_rescale: Annotated[float, _guidance(help="Share that keeps its deviation, 0 to 1.")] = 0.0
    apg_scale: Annotated[float, _guidance(help="Share that is orthogonal (APG), 0 to 1.")] = 0.0

    def sampling(self) -> "Sampling":
        """The same as a Sampling, checked."""
        from mge_plugin.inference.request import Sampling

        values = dict(vars(self))
        scale = numbers("cfg_scale", self.cfg_scale, (1, 3))
        values["cfg_scale"] = scale if len(scale) > 1 else scale[0]
        values["cfg_interval"] = numbers("cfg_interval", self.cfg_interval, (2,))
        choose("sampler", self.sampler, dict.fromkeys(SAMPLERS))
        return Sampling(**values)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How an extracted source is finished."""

    refine: Annotated[
        str,
        _extraction(
            help="mask: the source is filtered from the song itself; none: it is what the model "
            "made; auto: mask if the song has a higher rate or more channels than the model."
        ),
    ] = "auto"
    gate: Annotated[
        bool, _extraction("--gate/--no-gate", help="A source that is not there is silence.")
    ] = True
    gate_threshold: Annotated[
        float, _extraction(help="Presence, 0 to 1, under which it is not there.")
    ] = 0.1

    def finish(self) -> "Finish":
        """The same as a Finish, checked."""
        from mge_plugin.inference.request import Finish

        return Finish(**vars(self))


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """What of a track is to stay, or to begin from."""

    keep: Annotated[
        Path | None, _part(help="The track as it is, of which only --redo is made anew.")
    ] = None
    redo: Annotated[
        list[str],
        _part(help="Seconds or m:ss, e.g. 0:40-0:52; repeatable.", metavar="START-END"),
    ] = field(default_factory=list)

    init: Annotated[
        Path | None,
        _part(help="A sound of the track to begin from in place of noise: a variation of it."),
    ] = None
    init_level: Annotated[
        float, _part(help="How much is made anew: over 0, the sound as it is, to 1, all of it.")
    ] = 0.7

    def spans(self) -> tuple[tuple[float, float], ...]:
        """In seconds; none where nothing is kept."""
        if (self.keep is None) != (not self.redo):
            raise ValueError("--keep and --redo: expected both or none, found one of them")
        return tuple(span("--redo", text) for text in self.redo)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model, and what it runs on."""

    model_config: ModelConfig
    ckpt: Ckpt
    device: Annotated[str, _machine(help="auto, cuda, cuda:1 ..., mps or cpu.")] = "auto"
    dtype: Annotated[
        str, _machine(help=f"{', '.join(DTYPES)}: of the network; auto: bfloat16 on a GPU.")
    ] = "auto"
    compiled: Annotated[
        bool, _machine("--compile", help="Compile the network first: for more than one song.")
    ] = False

    def check(self) -> None:
        """What can be told before torch is imported."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(
                f"device: expected auto or one of cuda, mps, cpu, found {self.device!r}"
            )
        choose("dtype", self.dtype, dict.fromkeys(DTYPES))
        read_json(self.model_config)
        if not self.ckpt.is_file():
            raise ValueError(f"{self.ckpt}: {'a folder' if self.ckpt.is_dir() else 'no such file'}")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many songs at a time."""

    batch: Annotated[int, _machine(min=1, help="Songs denoised together.")] = 1


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the results go and in which form."""

    out: Out = Path(".")
    format: Annotated[str, typer.Option(help="wav (float) or flac (24 bits).")] = "wav"
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make anew what is there already.")
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what was made as one JSON object on stdout.")
    ] = False

    def check(self) -> None:
        """A format is one that can be written."""
        choose("format", self.format, dict.fromkeys(FORMATS))

    def make_folder(self) -> None:
        """The folder, before anything slow is made to be written there."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise ValueError(f"--out: {self.out} cannot be written to")
