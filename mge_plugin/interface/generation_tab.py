"""SAT's "Generation" tab, built by SAT, with this model's tasks behind its button.

A prompt alone generates a mixture; with an "Inpaint audio" it extracts that source from it. A
prefix, `add: the sound of the bass`, chooses another task. SAT's components are found by the
arguments of `generate_cond`, the function behind the button, not by their English labels.
"""

import inspect
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradio as gr
import numpy as np
import torch

from mge_plugin.data.audio import resample
from mge_plugin.files import write_file
from mge_plugin.inference.finish import spans
from mge_plugin.inference.request import Audio, Init, Keep, Request, Result, Sampling
from mge_plugin.inference.sampling import sampler_names
from mge_plugin.interface.media import (
    QUIET,
    Preview,
    format_problem,
    formats,
    read_upload,
    sentence,
    write_audio,
)
from mge_plugin.interface.sessions import Desk, Step, perform
from mge_plugin.interface.stems_tab import connect_cancel, connect_run, reports, with_names
from mge_plugin.report.page import format_db
from mge_plugin.report.pictures import measure_levels, spectrogram_png
from mge_plugin.tracks import TASKS

# Arguments of SAT's function that this model uses. The components of all others are hidden: its
# samplers have their own noise levels, its schedule is not shifted, its length is in seconds.
_USED = (
    "prompt", "negative_prompt", "seconds_total", "cfg_scale", "steps", "preview_every", "seed",
    "sampler_type", "cfg_interval_min", "cfg_interval_max", "cfg_rescale", "apg_scale",
    "file_format", "file_naming", "init_audio", "init_noise_level", "mask_maskstart",
    "mask_maskend", "inpaint_audio",
)  # fmt: skip
_LORA_CONTROLS = 4  # for each LoRA: strength, interval (2), layer filter; SAT 0.0.20
_RANDOM_SEEDS = 2**32
_MADE = {"generate": "mixture", "accompany": "submixture", "compose": "mixture"}  # else its sources
_SLACK_SECONDS = 0.1  # a step of SAT's mask sliders
_INIT_NOISE = 0.7  # changes a sound and keeps its outline; SAT's default would leave nothing of it
_LONGEST = 512.0  # seconds that the length slider reaches, as in SAT's page
_TASKS_TEXT = (
    "A prompt alone makes new music. With an **Inpaint audio** it extracts that source from it, "
    "for example *The sound of the bass*. A prefix chooses another task: `generate:` new music "
    "between the mask's ends, `add:` a source for the audio, `accompany:` a band for the audio, a "
    "source, `compose:` several sources, separated by commas. All tracks of a run, with a mixer, "
    "are in the **Stems** tab."
)
_MASK_INFO = "Of the Inpaint audio: generated or extracted from here"
_LENGTH_INFO = "Of music without an audio; 0 is the model's own, {:.1f} s"


@dataclass(frozen=True)
class _Inputs:
    """The values of SAT's components, by the names of its arguments, as a request."""

    values: Mapping[str, Any]
    objective: str  # the model's

    @cached_property
    def seed(self) -> int:
        """-1 is a random one."""
        text = str(self.values["seed"]).strip()
        try:
            seed = int(text)
        except ValueError:
            raise ValueError(f"seed: expected a whole number or -1, found {text!r}") from None
        return random.SystemRandom().randrange(_RANDOM_SEEDS) if seed == -1 else seed

    @cached_property
    def sampling(self) -> Sampling:
        """How to sample."""
        values = self.values
        return Sampling(
            steps=values["steps"],
            cfg_scale=values["cfg_scale"],
            seed=self.seed,
            sampler=values["sampler_type"],
            cfg_interval=(values["cfg_interval_min"], values["cfg_interval_max"]),
            cfg_rescale=values["cfg_rescale"],
            apg_scale=values.get("apg_scale", 0.0),
        )

    @cached_property
    def given(self) -> Audio | None:
        """The "Inpaint audio"."""
        return read_upload(self.values["inpaint_audio"], "Inpaint audio")

    @cached_property
    def redo(self) -> tuple[float, float] | None:
        """The seconds between the mask sliders; None if they include all of the audio."""
        if self.given is None:
            return None
        length = self.given.seconds
        start = float(self.values["mask_maskstart"] or 0.0)
        end = self.values["mask_maskend"]
        end = length if end is None else min(float(end), length)
        if start >= end:
            raise ValueError(
                f"mask: expected its start before its end and before the audio's at {length:g} s, "
                f"found {start:g} to {end:g} s"
            )
        return None if start == 0 and end > length - _SLACK_SECONDS else (start, end)

    @cached_property
    def request(self) -> Request:
        """The task with its audio."""
        name, prompts = _parse_prompt(self.values["prompt"] or "", self.given is not None)
        info = TASKS[name]
        if info.given is not None and self.given is None:
            raise ValueError(
                f"{name}: needs the {info.given.label} as the Inpaint audio, found none"
            )
        if name == "compose" and self.given is not None:
            raise ValueError("compose: takes no audio; to add sources to an audio, use add")
        init = self._init()
        has_length = info.has_length and self.given is None and init is None
        return Request(
            name,
            prompts,
            None if info.given is None else self.given,
            (float(self.values["seconds_total"] or 0) or None) if has_length else None,
            negative=self.values["negative_prompt"] or None,
            keep=self._keep(name),
            init=None if init is None else Init(init, self.init_level),
            sampling=self.sampling,
        )

    def _keep(self, task: str) -> Keep | None:
        """A new mixture keeps the given one outside of the mask, a new track silence."""
        if self.given is None or task == "extract":
            return None
        if task == "generate":
            return Keep(self.given, (self.redo or (0.0, self.given.seconds),))
        if self.redo is None:
            return None
        silence = np.zeros_like(self.given.samples)
        return Keep(Audio(silence, self.given.sample_rate), (self.redo,))

    def _init(self) -> Audio | None:
        """The "Init audio" at the rate of the given one."""
        init = read_upload(self.values["init_audio"], "Init audio")
        if init is None or self.given is None:
            return init
        rate = self.given.sample_rate
        return Audio(resample(init.samples, init.sample_rate, rate), rate)

    @property
    def init_level(self) -> float:
        """SAT's noise level, for k-diffusion a ratio of noise to signal, as t from 0 to 1."""
        noise = float(self.values["init_noise_level"])
        if self.objective == "v" and not self.values["sampler_type"].startswith("v-"):
            return math.atan(noise) * 2 / math.pi
        return min(noise, 1.0)

    def track(self, result: Result) -> np.ndarray:
        """The track that the task makes; extraction leaves the audio as it is beside the mask."""
        task = self.request.task
        if task in _MADE:
            return result.audio[_MADE[task]]
        others = ("mixture", "submixture", "residual", "removed")
        made = [audio for name, audio in result.audio.items() if name not in others]
        audio = np.sum(made, axis=0)
        if task == "extract" and self.redo is not None and self.given is not None:
            mixture = self.given.samples
            inside = spans([self.redo], mixture.shape[1], self.given.sample_rate)
            audio = mixture + inside * (audio - mixture)
        return audio

    @property
    def file_name(self) -> str:
        """Without an ending, as SAT composes it."""
        prompt, negative = self.values["prompt"] or "", self.values["negative_prompt"]
        if self.values["file_naming"] == "prompt":
            return prompt
        if self.values["file_naming"] != "verbose":
            return "output"
        without = f" neg {negative}" if negative else ""
        return f"{prompt[:60]}{without[:30]} cfg{self.values['cfg_scale']:g} seed{self.seed}"


def _parse_prompt(text: str, has_audio: bool) -> tuple[str, tuple[str, ...]]:
    """The task that a prefix such as `extract:` names, or else the usual one, and its prompts.

    Several sources have a line each; in `compose` commas separate them too.
    """
    head, colon, rest = text.partition(":")
    name = head.strip().lower()
    if not colon or name not in TASKS or TASKS[name].new_prompt:
        name, rest = ("extract" if has_audio else "generate"), text
    if not TASKS[name].several:
        return name, (rest.strip(),)
    pieces = re.split(r"[\n,]" if name == "compose" else r"\n", rest)
    return name, tuple(piece.strip() for piece in pieces if piece.strip()) or ("",)


def generate(desk: Desk, page: str | None, inputs: _Inputs) -> Iterator[Step | tuple[str, list]]:
    """Run the request: its steps, then the file and the pictures with captions."""

    def save(result: Result, preview: Preview) -> tuple[str, list]:
        folder = desk.new_result(page)
        audio, rate = inputs.track(result), result.sample_rate
        form, name = inputs.values["file_format"] or "wav", inputs.file_name
        note = ""
        if problem := format_problem(audio, rate, form):
            note, form = f"; a WAV file: no {form.split()[0]}, for {problem}", "wav"
        path = write_audio(folder, name, audio, rate, form)
        caption = f"seed {inputs.seed}, RMS {format_db(measure_levels(audio).rms_db)}{note}"
        pictures = [(spectrogram_png(audio, rate), caption), *preview.pictures]
        files = [
            (str(write_file(folder / f"{number}.png", picture)), text)
            for number, (picture, text) in enumerate(pictures)
        ]
        return str(path), files

    every = int(inputs.values["preview_every"] or 0)
    yield from perform(desk, page, inputs.request, save, every)


def _set_lora_strengths(model: torch.nn.Module, controls: Sequence[Any]) -> None:
    """Set the strength of each LoRA that SAT has loaded."""
    if not controls:
        return
    from stable_audio_tools.models.lora import set_lora_strength  # SAT 0.0.20

    for index, strength in enumerate(controls[::_LORA_CONTROLS]):
        for part in (model.model, model.conditioner):
            set_lora_strength(part, strength, lora_index=index)


def _runner(desk: Desk, names: list[str]) -> Callable:
    """What SAT's button calls with the values of the arguments `names`, then those of LoRAs."""

    def work(page: str | None, values: Sequence[Any]) -> Iterator[Any]:
        model = desk.pipeline.model
        named = dict(zip(names, values, strict=False))
        inputs = _Inputs(named, model.diffusion_objective)
        desk.note_uploads(page, [named["inpaint_audio"], named["init_audio"]])
        _set_lora_strengths(model, values[len(names) :])
        for news in generate(desk, page, inputs):
            yield news if isinstance(news, Step) else (f"Done: seed {inputs.seed}.", news)

    def run(request: gr.Request, *values: Any) -> Iterator[list]:
        yield from reports(work(request.session_hash, values), skipped=2)

    return run


def adjust(ui: gr.Blocks, desk: Desk, sample_size: int) -> None:
    """Put this model behind SAT's button; hide and explain components. Called inside the page."""
    (number, event), *_ = (item for item in ui.fns.items() if item[1].name == "generate_cond")
    parameters = inspect.signature(event.fn).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    parts = dict(zip(names, event.inputs, strict=False))
    loras = event.inputs[len(names) :]
    audio, gallery = event.outputs
    tab = _tab_of(parts["prompt"])
    _hide_unused(tab, [parts[name] for name in _USED if name in parts] + loras[::_LORA_CONTROLS])
    seconds = sample_size / desk.pipeline.sample_rate
    _set_defaults(parts, desk)
    _show_length(ui, parts["seconds_total"], seconds)
    _connect_mask(parts, seconds)
    for player in (parts["inpaint_audio"], parts["init_audio"], audio):
        player.type = "filepath"  # Gradio itself reads only 16-bit WAV without FFmpeg
    audio.elem_id, gallery.elem_classes = "mge-output", ["mge-pictures"]
    gallery.columns, gallery.object_fit = 1, "contain"  # SAT's page crops them to squares
    ((button, _),) = event.targets
    start = ui.blocks[button]
    start.elem_id = "mge-generate"
    del ui.default_config.fns[number]
    with tab, gr.Column() as head:
        gr.Markdown(_TASKS_TEXT)
        status = gr.HTML(sentence(""), elem_id="mge-generation-status", padding=False)
        stop = gr.Button("Cancel", variant="stop", size="sm", elem_id="mge-generation-cancel")
    tab.children.insert(0, tab.children.pop(tab.children.index(head)))
    connect_cancel(desk, stop, status)
    run = with_names(_runner(desk, names), names + [f"lora_{n}" for n in range(len(loras))])
    connect_run(desk, run, event.inputs, [start, status, audio, gallery], "generate")


def _tab_of(block: Any) -> gr.Tab:
    while not isinstance(block, gr.Tab):
        block = block.parent
    return block


def _hide_unused(tab: gr.Tab, used: Sequence[Any]) -> None:
    """Hide what takes a value and is not used, and what is then empty.

    Components with an `elem_id` are those of SAT's script (Autoplay and others).
    """
    for block in _inside(tab):
        takes_value = isinstance(block, gr.components.FormComponent | gr.Audio)
        is_output = getattr(block, "interactive", None) is False
        if takes_value and not (is_output or block.elem_id or block in used):
            block.visible = False
    for block in _inside(tab):
        if isinstance(block, gr.Row):
            block.visible = _is_seen(block)


def _inside(block: Any) -> Iterator[Any]:
    for child in getattr(block, "children", []):
        yield child
        yield from _inside(child)


def _is_seen(block: Any) -> bool:
    """Whether a component is visible, or, if it is a container, anything in it."""
    children = getattr(block, "children", None)
    return bool(block.visible) and (not children or any(map(_is_seen, children)))


def _set_defaults(parts: Mapping[str, Any], desk: Desk) -> None:
    """The model's own sampling where SAT's page can show it; no APG; readable file names."""
    sampling, objective = desk.pipeline.sampling, desk.pipeline.model.diffusion_objective
    parts["steps"].value = sampling.steps
    if not isinstance(sampling.cfg_scale, tuple):
        parts["cfg_scale"].value = sampling.cfg_scale
    sampler = parts["sampler_type"]
    sampler.choices = [(name, name) for name in sampler_names(objective)]
    sampler.value = sampling.sampler
    if objective == "v":
        noise = parts["init_noise_level"]
        noise.value = _INIT_NOISE
        noise.info = "for the v-ddim samplers, from 1 up, nothing of the audio is left"
    if "apg_scale" in parts:
        parts["apg_scale"].value = 0.0
    parts["file_naming"].value = "verbose"
    parts["file_format"].choices = [(form, form) for form in formats()]


def _show_length(ui: gr.Blocks, slider: gr.Slider, seconds: float) -> None:
    """SAT hides it for a model without a conditioner of that name; here it is the length itself."""
    slider.visible = True
    container = slider.parent
    while not isinstance(container, gr.Column):
        container.visible, container = True, container.parent
    slider.minimum, slider.maximum, slider.step = 0.0, _LONGEST, 0.1
    slider.value, slider.info = 0.0, _LENGTH_INFO.format(seconds)
    for key, event in list(ui.default_config.fns.items()):  # SAT 0.0.20 would move the mask by it
        if (slider._id, "change") in event.targets:
            del ui.default_config.fns[key]


def _connect_mask(parts: Mapping[str, Any], seconds: float) -> None:
    """The mask includes the whole audio until a user moves it."""
    start, end = parts["mask_maskstart"], parts["mask_maskend"]
    for slider, value in ((start, 0.0), (end, _ceil_tenth(seconds))):
        slider.minimum, slider.maximum, slider.value = 0.0, _ceil_tenth(seconds), value
    start.info, end.info = _MASK_INFO, "to here; the rest stays as it is"

    def follow(path: str | None) -> tuple[dict, dict]:
        try:
            return _mask_ends(path, seconds)
        except ValueError as error:
            raise gr.Error(str(error), duration=10, print_exception=False) from error

    audio = parts["inpaint_audio"]
    audio.change(follow, [audio], [start, end], **QUIET)


def _mask_ends(path: str | None, window: float) -> tuple[dict, dict]:
    """The mask's sliders for an audio: from its beginning to its end."""
    audio = read_upload(path or None, "Inpaint audio")
    longest = _ceil_tenth(audio.seconds if audio is not None else window)
    return gr.update(maximum=longest, value=0.0), gr.update(maximum=longest, value=longest)


def _ceil_tenth(seconds: float) -> float:
    """Up to the next tenth, a step of the sliders."""
    return round(-(-seconds * 10 // 1) / 10, 1)
