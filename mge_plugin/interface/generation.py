"""The work of SAT's "Generation" tab, `generate_cond`, done by this model's tasks.

A prompt alone generates a mixture; with an "Inpaint audio" it extracts that source from it. A
prefix, `add: the sound of the bass`, chooses another task.
"""

import inspect
import math
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradio as gr
import numpy as np
import torch

from mge_plugin.data.audio import resample
from mge_plugin.inference.mastering import spans
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling
from mge_plugin.inference.result import Result
from mge_plugin.inference.tasks import TASKS, Init, Keep, Request
from mge_plugin.interface import files, pictures
from mge_plugin.interface.desk import desk_of
from mge_plugin.interface.preview import Preview
from mge_plugin.registry import DIFFUSION_UI, original
from mge_plugin.report.formats import format_db
from mge_plugin.report.levels import measure_levels

RANDOM_SEEDS = 2**32
FAILURES = (ValueError, MemoryError, torch.OutOfMemoryError)  # what a user can mend
MADE = {"generate": "mixture", "accompany": "submixture", "compose": "mixture"}  # else its sources
LORA_CONTROLS = 4  # for each LoRA, SAT 0.0.20
SLACK_SECONDS = 0.1  # a step of SAT's mask sliders


def generate_cond(*args: Any, **kwargs: Any) -> tuple[str, list]:
    """In place of SAT's function of that name: the result's file and its pictures."""
    sat = sys.modules[DIFFUSION_UI]
    call = inspect.signature(original(sat.generate_cond)).bind(*args, **kwargs)
    call.apply_defaults()
    try:
        asked = Asked(call.arguments, sat.model.diffusion_objective)
        with desk_of(sat.model, sat.sample_size).model() as pipeline:
            set_lora_strengths(pipeline.model, call.arguments.get("lora_args", ()))
            return generate(pipeline, asked)
    except FAILURES as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error


def set_lora_strengths(model: torch.nn.Module, controls: Sequence[Any]) -> None:
    """Of each LoRA that SAT has loaded, by its controls: strength, interval (2), layer filter."""
    if not controls:
        return
    from stable_audio_tools.models.lora import set_lora_strength

    for index, strength in enumerate(controls[::LORA_CONTROLS]):
        for part in (model.model, model.conditioner):
            set_lora_strength(part, strength, lora_index=index)


def generate(pipeline: Pipeline, asked: "Asked") -> tuple[str, list]:
    """Run what is asked; the file, and the pictures with their captions, the result's first."""
    preview = Preview(pipeline, asked.request, asked.preview_every)
    (result,) = pipeline.run([asked.request], asked.sampling, preview)
    audio, sample_rate = asked.track(result), result.sample_rate
    form, name = asked.inputs["file_format"] or "wav", asked.file_name
    if problem := files.format_problem(audio, sample_rate, form):
        gr.Warning(f"This is a WAV file: no {form.split()[0]}, for {problem}.")
        form = "wav"
    path = files.write(files.fresh_folder(), name, audio, sample_rate, form)
    caption = f"seed {asked.seed}, RMS {format_db(measure_levels(audio).rms_db)}"
    pictured = (pictures.spectrogram(audio, sample_rate), caption)
    return str(path), [pictured, *preview.pictures]


@dataclass(frozen=True)
class Asked:
    """What the page's inputs, by the names of SAT's arguments, ask of the model."""

    inputs: Mapping[str, Any]
    objective: str  # the model's

    @cached_property
    def seed(self) -> int:
        """-1 is a random one."""
        text = str(self.inputs["seed"]).strip()
        try:
            seed = int(text)
        except ValueError:
            raise ValueError(f"seed: expected a whole number or -1, found {text!r}") from None
        return random.SystemRandom().randrange(RANDOM_SEEDS) if seed == -1 else seed

    @cached_property
    def sampling(self) -> Sampling:
        """How to sample."""
        inputs = self.inputs
        return Sampling(
            steps=int(inputs["steps"]),
            cfg_scale=float(inputs["cfg_scale"]),
            seed=self.seed,
            sampler=inputs["sampler_type"],
            cfg_interval=(float(inputs["cfg_interval_min"]), float(inputs["cfg_interval_max"])),
            cfg_rescale=float(inputs["cfg_rescale"]),
            apg_scale=float(inputs.get("apg_scale", 0.0)),
        )

    @cached_property
    def given(self) -> files.Heard | None:
        """The "Inpaint audio"."""
        return files.heard(self.inputs["inpaint_audio"], "Inpaint audio")

    @cached_property
    def task(self) -> tuple[str, tuple[str, ...]]:
        """The task's name and its prompts."""
        return parse_prompt(self.inputs["prompt"] or "", self.given is not None)

    @cached_property
    def preview_every(self) -> int:
        """Steps from one preview to the next; 0 is none."""
        return int(self.inputs["preview_every"] or 0)

    @cached_property
    def redo(self) -> tuple[float, float] | None:
        """The seconds between the mask sliders; None if they take in the whole audio."""
        if self.given is None:
            return None
        audio, sample_rate = self.given
        length = audio.shape[1] / sample_rate
        start = float(self.inputs["mask_maskstart"] or 0.0)
        end = self.inputs["mask_maskend"]
        end = length if end is None else min(float(end), length)
        if start >= end:
            raise ValueError(
                f"mask: expected its start before its end and before the audio's at {length:g} s, "
                f"found {start:g} to {end:g} s"
            )
        return None if start == 0 and end > length - SLACK_SECONDS else (start, end)

    @cached_property
    def request(self) -> Request:
        """The task with all that it is given."""
        name, prompts = self.task
        if TASKS[name].given is not None and self.given is None:
            raise ValueError(
                f"{name}: needs the {TASKS[name].given.label} as the Inpaint audio, found none"
            )
        if name == "compose" and self.given is not None:
            raise ValueError("compose: begins from nothing; to go on from an audio, use add")
        audio, sample_rate = self.given or (None, None)
        init = self._init(sample_rate)
        if sample_rate is None and init is not None:
            sample_rate = init[1]
        negative = self.inputs["negative_prompt"] or None
        return Request(
            name,
            prompts,
            None if name == "generate" else audio,
            sample_rate,
            self._seconds(init is not None),
            negative=negative,
            keep=self._keep(name, audio),
            init=None if init is None else Init(init[0], self.init_level),
        )

    def _seconds(self, begun: bool) -> float | None:
        """A length is asked only where no audio has one; 0 is the model's window."""
        total = float(self.inputs["seconds_total"] or 0)
        return None if self.given is not None or begun or total <= 0 else total

    def _keep(self, name: str, audio: np.ndarray | None) -> Keep | None:
        """A new mixture keeps the given one outside of the mask, a new track silence."""
        if audio is None or name == "extract":
            return None
        if name == "generate":
            length = audio.shape[1] / self.given[1]
            return Keep(audio, (self.redo or (0.0, length),))
        return None if self.redo is None else Keep(np.zeros_like(audio), (self.redo,))

    def _init(self, sample_rate: int | None) -> files.Heard | None:
        """The "Init audio" at the rate of the given one."""
        begun = files.heard(self.inputs["init_audio"], "Init audio")
        if begun is None or sample_rate is None:
            return begun
        return resample(*begun, sample_rate), sample_rate

    @property
    def init_level(self) -> float:
        """SAT's noise level, of k-diffusion a ratio of noise to signal, as t from 0 to 1."""
        noise = float(self.inputs["init_noise_level"])
        if self.objective == "v" and not self.inputs["sampler_type"].startswith("v-"):
            return math.atan(noise) * 2 / math.pi
        return min(noise, 1.0)

    def track(self, result: Result) -> np.ndarray:
        """The track that the task makes; extraction leaves the audio as it is beside the mask."""
        name = self.request.task
        if name in MADE:
            return result.audio[MADE[name]]
        made = [audio for track, audio in result.audio.items() if track.startswith("source")]
        audio = sum(made)
        if name == "extract" and self.redo is not None:
            mixture, sample_rate = self.given
            inside = spans([self.redo], mixture.shape[1], sample_rate)
            audio = mixture + inside * (audio - mixture)
        return audio

    @property
    def file_name(self) -> str:
        """Without an ending, as SAT composes it."""
        prompt, negative = self.inputs["prompt"] or "", self.inputs["negative_prompt"]
        if self.inputs["file_naming"] == "prompt":
            return prompt
        if self.inputs["file_naming"] != "verbose":
            return "output"
        away = f" neg {negative}" if negative else ""
        return f"{prompt[:60]}{away[:30]} cfg{self.inputs['cfg_scale']:g} seed{self.seed}"


def parse_prompt(text: str, has_audio: bool) -> tuple[str, tuple[str, ...]]:
    """The task that a prefix such as `extract:` names, or else the usual one, and its prompts.

    Several sources have a line each; in `compose` commas part them too.
    """
    head, colon, rest = text.partition(":")
    name = head.strip().lower()
    if not colon or name not in TASKS:
        name, rest = ("extract" if has_audio else "generate"), text
    if not TASKS[name].several:
        return name, (rest.strip(),)
    parts = re.split(r"[\n,]" if name == "compose" else r"\n", rest)
    return name, tuple(part.strip() for part in parts if part.strip()) or ("",)
