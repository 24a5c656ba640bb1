"""SAT's "Generation" tab, built by SAT, made to say only what this model can do.

The work of SAT's "Generation" tab, `generate_cond`, done by this model's tasks.

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
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from mge_plugin.inference.finish import spans
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Init, Keep, Request, Result, Sampling
from mge_plugin.interface import files
from mge_plugin.interface import files as pictures
from mge_plugin.interface.desk import QUEUE, Desk, desk_of
from mge_plugin.interface.files import Preview
from mge_plugin.registry import DIFFUSION_UI, original
from mge_plugin.report.page import format_db
from mge_plugin.report.pictures import measure_levels
from mge_plugin.tracks import TASKS

_RANDOM_SEEDS = 2**32
FAILURES = (ValueError, MemoryError, torch.OutOfMemoryError)  # what a user can mend
_MADE = {"generate": "mixture", "accompany": "submixture", "compose": "mixture"}  # else its sources
_LORA_CONTROLS = 4  # for each LoRA, SAT 0.0.20
_SLACK_SECONDS = 0.1  # a step of SAT's mask sliders


def generate_cond(*args: Any, **kwargs: Any) -> tuple[str, list]:
    """In place of SAT's function of that name: the result's file and its pictures."""
    sat = sys.modules[DIFFUSION_UI]
    call = inspect.signature(original(sat.generate_cond)).bind(*args, **kwargs)
    call.apply_defaults()
    try:
        asked = Asked(call.arguments, sat.model.diffusion_objective)
        with desk_of(sat.model, sat.sample_size).model() as pipeline:
            _set_lora_strengths(pipeline.model, call.arguments.get("lora_args", ()))
            return generate(pipeline, asked)
    except FAILURES as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error


def _set_lora_strengths(model: torch.nn.Module, controls: Sequence[Any]) -> None:
    """Of each LoRA that SAT has loaded, by its controls: strength, interval (2), layer filter."""
    if not controls:
        return
    from stable_audio_tools.models.lora import set_lora_strength

    for index, strength in enumerate(controls[::_LORA_CONTROLS]):
        for part in (model.model, model.conditioner):
            set_lora_strength(part, strength, lora_index=index)


def generate(pipeline: Pipeline, asked: "Asked") -> tuple[str, list]:
    """Run what is asked; the file, and the pictures with their captions, the result's first."""
    preview = Preview(pipeline, asked.request, asked.preview_every)
    (result,) = pipeline.run([asked.request], preview)
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
        return random.SystemRandom().randrange(_RANDOM_SEEDS) if seed == -1 else seed

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
        return None if start == 0 and end > length - _SLACK_SECONDS else (start, end)

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
        init = files.heard(self.inputs["init_audio"], "Init audio")
        return Request(
            name,
            prompts,
            None if name == "generate" else self.given,
            self._seconds(init is not None) if TASKS[name].has_length else None,
            negative=self.inputs["negative_prompt"] or None,
            keep=self._keep(name),
            init=None if init is None else Init(init, self.init_level),
            sampling=self.sampling,
        )

    def _seconds(self, begun: bool) -> float | None:
        """A length is asked only where no audio has one; 0 is the model's window."""
        total = float(self.inputs["seconds_total"] or 0)
        return None if self.given is not None or begun or total <= 0 else total

    def _keep(self, name: str) -> Keep | None:
        """A new mixture keeps the given one outside of the mask, a new track silence."""
        if self.given is None or name == "extract":
            return None
        audio, rate = self.given
        if name == "generate":
            return Keep((audio, rate), (self.redo or (0.0, audio.shape[1] / rate),))
        return None if self.redo is None else Keep((np.zeros_like(audio), rate), (self.redo,))

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
        if name in _MADE:
            return result.audio[_MADE[name]]
        audio = sum(result.audio[track] for track in result.latents)
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


# Labels of inputs that mean nothing to this model: its samplers have their own noise levels, its
# schedule is not shifted, its length is said in seconds. The layer and interval of a LoRA are SAT's
# own sampling loop's.
_HIDDEN = frozenset({
    "Seconds start", "CFG norm threshold", "Sigma min", "Sigma max", "Sigma curve strength",
    "Adapt duration to conditioning", "Duration padding (sec)", "Cut to seconds total",
    "Use effective length for distribution shift", "Sampling schedule shift", "Anchor length",
    "Anchor log-SNR", "Rate", "log-SNR end", "Min seq len", "Max seq len", "Alpha min", "Alpha max",
    "Base shift", "Max shift", "Min length", "Max length", "Techniques", "Inversion Steps", "Gamma",
    "Unconditional", "Interval min", "Interval max", "Layer filter",
})  # fmt: skip
_SCRIPT = Path(__file__).with_name("generation.js")
_CFG_SCALE = 2.0  # the paper's, section E.3
_INIT_NOISE = 0.7  # changes a sound and keeps its outline; SAT's default would leave nothing of it
_LONGEST = 512.0  # seconds that the length slider reaches, as in SAT's page
_TASKS_TEXT = (
    "A prompt alone makes new music. With an **Inpaint audio** it extracts that source from it, "
    "for example *The sound of the bass*. A prefix chooses another task: `generate:` music anew "
    "between the mask's ends, `add:` a source to the audio, `accompany:` the audio, a source, "
    "with a band, `compose:` from several sources, parted by commas. What each task makes on its "
    "way, and all tracks side by side, are in the **Stems** tab."
)
_MASK_INFO = "Of the Inpaint audio: made or extracted anew from here"
_LENGTH_INFO = "Of music without an audio; 0 is the model's own, {:.1f} s"
# Pictures in their own form, SAT's checkboxes with their labels.
_STYLE = """<style>
.mge-pictures .thumbnail-item { aspect-ratio: auto !important; height: auto !important; }
.form:has(> #autoplay) { flex-wrap: wrap; }
#autoplay, #infinite-radio, #automatic-download { flex: 1 1 9em; min-width: 9em; }
</style>"""


def adjust(ui: gr.Blocks, desk: Desk, sample_size: int) -> None:
    """Hide, explain and connect the components of SAT's page; called inside of it."""
    parts = {label(block): block for block in ui.blocks.values() if label(block)}
    for block in ui.blocks.values():
        if label(block) in _HIDDEN:
            block.visible = False
    _hide_empty_rows(ui)
    _set_defaults(parts, desk.pipeline.model.diffusion_objective)
    seconds = sample_size / desk.pipeline.sample_rate
    _show_length(ui, parts["Seconds total"], seconds)
    _connect_mask(parts, seconds)
    for name in ("Inpaint audio", "Init audio", "Output audio"):
        _audio(ui, name).type = "filepath"  # Gradio itself reads only 16-bit WAV without FFmpeg
    _show_whole_pictures(parts["Output spectrogram"])
    _follow_the_output(ui)
    _explain(parts["Generation"])


def _explain(tab: gr.Tab) -> None:
    """A few words above SAT's components."""
    with tab:
        gr.Markdown(_TASKS_TEXT)
        gr.HTML(_STYLE, padding=False)
    tab.children.insert(0, tab.children.pop(-2))


def label(block: Any) -> str | None:
    """A component's label."""
    return getattr(block, "label", None)


def mask_ends(path: str | None, window: float) -> tuple[dict, dict]:
    """The mask's sliders for an audio: from its beginning to its end."""
    seconds = window
    if path:
        audio, sample_rate = files.heard(path, "Inpaint audio")
        seconds = audio.shape[1] / sample_rate
    longest = _ceil_tenth(seconds)
    return gr.update(maximum=longest, value=0.0), gr.update(maximum=longest, value=longest)


def _ceil_tenth(seconds: float) -> float:
    """Up to the next tenth, a step of the sliders."""
    return round(-(-seconds * 10 // 1) / 10, 1)


def _set_defaults(parts: dict[str, Any], objective: str) -> None:
    parts["CFG scale"].value = _CFG_SCALE
    if objective == "v":
        parts["Sampler type"].value = "v-ddim"  # the paper's
        noise = parts["Init noise level"]
        noise.value, noise.info = (
            _INIT_NOISE,
            "from 1 up the v-ddim samplers begin from noise alone",
        )
    if "APG scale" in parts:
        parts["APG scale"].value = 0.0
    parts["File naming"].value = "verbose"
    parts["File format"].choices = [(form, form) for form in files.formats()]


def _follow_the_output(ui: gr.Blocks) -> None:
    """The model's queue for SAT's button, and in its script's place one for what follows a result.

    Gradio 6.3 does not run the script that SAT gives its page.
    """
    (event,) = (event for event in ui.fns.values() if event.name == "generate_cond")
    event.concurrency_id = QUEUE
    ((button, _),) = event.targets
    ui.blocks[button].elem_id = "mge-generate"
    _audio(ui, "Output audio").elem_id = "mge-output"
    for name in ("js", "_deprecated_js"):  # Gradio 5's and 6's
        if getattr(ui, name, None):
            setattr(ui, name, None)
    ui.load(None, js=_SCRIPT.read_text())


def _show_whole_pictures(gallery: gr.Gallery) -> None:
    """One below the other; SAT's page crops them to squares."""
    gallery.columns, gallery.object_fit = 1, "contain"
    gallery.elem_classes = ["mge-pictures"]


def _hide_empty_rows(ui: gr.Blocks) -> None:
    """Rows of which nothing is left to see."""
    for block in ui.blocks.values():
        if isinstance(block, gr.Row):
            block.visible = _is_seen(block)


def _is_seen(block: Any) -> bool:
    """Whether a component is visible, or of a container, anything in it."""
    children = getattr(block, "children", None)
    return bool(block.visible) and (not children or any(map(_is_seen, children)))


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


def _connect_mask(parts: dict[str, Any], seconds: float) -> None:
    """The mask takes in the whole audio until a user moves it."""
    start, end = parts["Mask Start (sec)"], parts["Mask End (sec)"]
    for slider, value in ((start, 0.0), (end, _ceil_tenth(seconds))):
        slider.minimum, slider.maximum, slider.value = 0.0, _ceil_tenth(seconds), value
    start.info, end.info = _MASK_INFO, "to here; the rest stays as it is"

    def follow(path: str | None) -> tuple[dict, dict]:
        try:
            return mask_ends(path, seconds)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    audio = parts["Inpaint audio"]
    audio.change(follow, [audio], [start, end], show_progress="hidden")


def _audio(ui: gr.Blocks, name: str) -> gr.Audio:
    """The audio component of that label; an accordion may have the same."""
    return next(b for b in ui.blocks.values() if isinstance(b, gr.Audio) and label(b) == name)
