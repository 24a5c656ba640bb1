"""The left half of the Stems tab: what a user fills in, by the names that `form.job` reads.

What is filled in on the Stems tab, as a job for the pipeline.
"""

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import (
    LONG_FORMS,
    REFINEMENTS,
    SCHEDULES,
    Finish,
    Keep,
    Request,
    Result,
    Sampling,
)
from mge_plugin.inference.sampling import sampler_names
from mge_plugin.interface import files
from mge_plugin.prompts import Prompt, label_prompt
from mge_plugin.tracks import TASKS

MAX_SOURCES = 8  # rows for them on the page
_RANDOM_SEEDS = 2**32
_REPLACE = "replace"  # extract, then add: no task of the model's own
NAMES = tuple(TASKS)
# What the page asks for beside the prompts, and what the given audio is called there.
_GIVEN = {name: task.given.label for name, task in TASKS.items() if task.given is not None}
_LENGTH = ("generate", "compose")  # tasks for which a length is asked
HELP = {
    "generate": "Music from a text.",
    "extract": "The sources that the prompts name, and the residual, out of a mixture.",
    "add": "New sources, one after another, that go with a submixture.",
    "accompany": "The rest of the band for a source.",
    "compose": "A song source by source, each fitting those before.",
    _REPLACE: "Another instrument for one of a mixture.",
}


@dataclass(frozen=True)
class Job:
    """A run that is ready to be made."""

    requests: tuple[Request, ...]  # one

    @property
    def given(self) -> np.ndarray | None:
        """The given audio."""
        audio = self.requests[0].audio
        return None if audio is None else audio.samples

    def steps(self, pipeline: Pipeline) -> int:
        """How far the callback will count."""
        return pipeline.steps(self.requests)

    def run(self, pipeline: Pipeline, callback: Callable[[Mapping[str, Any]], None]) -> Result:
        """Make it."""
        return pipeline.run(self.requests, callback)[0]


def job(filled: Mapping[str, Any]) -> Job:
    """Read the page's fields, by the names of `stems_tab`; ValueError says what is missing."""
    task = filled["task"]
    given = files.heard(filled["given"], "Given audio") if task in _GIVEN else None
    if task in _GIVEN and given is None:
        raise ValueError(f"{task}: needs the {_GIVEN[task]} as the given audio, found none")
    new_prompt = (filled["new_prompt"] or "").strip() if task == _REPLACE else None
    request = Request(
        task,
        _prompts(task, filled),
        given,
        (filled["seconds"] or None) if task in _LENGTH else None,
        negative=(filled["negative"] or "").strip() or None,
        keep=_keep(filled),
        new_prompt=new_prompt,
        sampling=sampling(filled),
        finish=Finish(filled["refine"], bool(filled["gate"]), float(filled["gate_threshold"])),
    )
    return Job((request,))


def sampling(filled: Mapping[str, Any]) -> Sampling:
    """How to sample; seed -1 is a random one."""
    seed = int(filled["seed"] if filled["seed"] is not None else -1)
    return Sampling(
        steps=int(filled["steps"]),
        cfg_scale=float(filled["cfg_scale"]),
        seed=random.SystemRandom().randrange(_RANDOM_SEEDS) if seed == -1 else seed,
        window_batch=int(filled["window_batch"]),
        sampler=filled["sampler"],
        schedule=filled["schedule"],
        eta=float(filled["eta"]),
        resamplings=int(filled["resamplings"]),
        cfg_interval=(float(filled["interval_from"]), float(filled["interval_to"])),
        cfg_rescale=float(filled["cfg_rescale"]),
        apg_scale=float(filled["apg_scale"]),
        long_form=filled["long_form"],
        candidates=int(filled["candidates"]),
    )


def _prompts(task: str, filled: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """A prompt a line where a task takes several, else all lines as one; with the example."""
    lines = [line.strip() for line in (filled["prompts"] or "").splitlines() if line.strip()]
    if task != _REPLACE and not TASKS[task].several:
        lines = [" ".join(lines)] if lines else []
    if len(lines) > MAX_SOURCES:
        raise ValueError(f"prompts: expected {MAX_SOURCES} lines at most, found {len(lines)}")
    example = files.heard(filled["example"], "Audio example")
    if example is None:
        return tuple(lines) or ("",)
    if len(lines) > 1:
        raise ValueError(f"an audio example goes with one prompt, found {len(lines)} lines")
    audio, sample_rate = example
    prompt = {"audio": torch.from_numpy(audio), "sample_rate": sample_rate}
    if lines:
        prompt |= {"text": lines[0], "text_weight": float(filled["text_weight"])}
    return (prompt,)


def _keep(filled: Mapping[str, Any]) -> Keep | None:
    """The track of which only some seconds are made anew."""
    current = files.heard(filled["current"], "Current track")
    if current is None:
        return None
    redo = (float(filled["redo_from"] or 0.0), float(filled["redo_to"] or 0.0))
    return Keep(current, (redo,))


# Labels of Slakh, MUSDB18 and MoisesDB that most songs have.
_SUGGESTIONS = (
    "bass", "drums", "guitar", "piano", "strings", "vocals", "organ", "brass", "reed", "pipe",
    "synth lead", "synth pad", "chromatic percussion", "choir",
)  # fmt: skip
_PREVIEW_EVERY = 10  # steps
_STEPS = 100
Fields = dict[str, gr.components.Component]
# No button that would upload a sound to a hub: Gradio 6 and 5 have different arguments for it.
_GRADIO_6 = "buttons" in inspect.signature(gr.Audio).parameters
PLAYER = {"buttons": ["download"]} if _GRADIO_6 else {"show_share_button": False}
PICTURE = {"buttons": ["fullscreen"]} if _GRADIO_6 else {"show_share_button": False}
_WAVES = gr.WaveformOptions(show_recording_waveform=False)


def build(pipeline: Pipeline) -> Fields:
    """All fields, with what they do to each other."""
    fields: Fields = {}
    fields["task"] = gr.Radio(NAMES, value="extract", label="Task", elem_id="mge-task")
    explanation = gr.Markdown(HELP["extract"])
    fields["given"] = _audio("Given audio: the mixture", "mge-given")
    _prompts_fields(fields)
    with gr.Accordion("Audio example", open=False, visible=pipeline.supports_audio):
        fields["example"] = _audio("A sound like it", "mge-example")
        fields["text_weight"] = gr.Slider(0, 1, 0.5, label="Weight of the text beside it")
    fields["seconds"] = gr.Number(
        None, label="Seconds", info="Empty: one window of the model", visible=False
    )
    _sampling(fields, pipeline.model.diffusion_objective)
    with gr.Accordion("Redo some seconds", open=False):
        fields["current"] = _audio("Current track, of which the rest stays", "mge-current")
        with gr.Row():
            fields["redo_from"] = gr.Number(0, label="From (s)")
            fields["redo_to"] = gr.Number(0, label="To (s)")
    chosen = [explanation, *(fields[name] for name in ("given", "seconds", "new_prompt"))]
    fields["task"].change(choose, [fields["task"]], chosen, show_progress="hidden")
    return fields


def choose(task: str) -> list:
    """What a task needs to be asked."""
    given = _GIVEN.get(task)
    return [
        HELP[task],
        gr.update(visible=given is not None, label=f"Given audio: the {given}"),
        gr.update(visible=task in _LENGTH),
        gr.update(visible=task == _REPLACE),
    ]


def with_suggestion(label: str | list[str], prompts: str | None) -> str:
    """The prompts and a line for one more label."""
    label = label[0] if isinstance(label, list) else label
    lines = [line for line in (prompts or "").splitlines() if line.strip()]
    return "\n".join([*lines, label_prompt(label)])


def _audio(label: str, elem_id: str) -> gr.Audio:
    return gr.Audio(
        label=label,
        sources=["upload", "microphone"],
        type="filepath",
        elem_id=elem_id,
        waveform_options=_WAVES,
        **PLAYER,
    )


def _prompts_fields(fields: Fields) -> None:
    fields["prompts"] = gr.Textbox(
        label="Prompts, one a line",
        placeholder="The sound of the bass",
        lines=2,
        elem_id="mge-prompts",
    )
    suggested = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[label] for label in _SUGGESTIONS],
        samples_per_page=len(_SUGGESTIONS),
        label="Suggestions",
        elem_id="mge-suggestions",
    )
    suggested.click(
        with_suggestion, [suggested, fields["prompts"]], [fields["prompts"]], show_progress="hidden"
    )
    fields["new_prompt"] = gr.Textbox(
        label="Prompt of the new instrument", visible=False, elem_id="mge-new-prompt"
    )
    fields["negative"] = gr.Textbox(
        label="Negative prompt", placeholder="what to move away from", elem_id="mge-negative"
    )


def _sampling(fields: Fields, objective: str) -> None:
    paper, finish = Sampling(), Finish()
    with gr.Row():
        fields["steps"] = gr.Slider(1, 500, _STEPS, step=1, label="Steps", elem_id="mge-steps")
        fields["cfg_scale"] = gr.Slider(0, 25, paper.cfg_scale, step=0.1, label="Guidance")
        fields["seed"] = gr.Number(-1, label="Seed (-1: random)", precision=0, elem_id="mge-seed")
    with gr.Accordion("Sampler and guidance", open=False):
        with gr.Row():
            names = sampler_names(objective)
            fields["sampler"] = gr.Dropdown(list(names), value=paper.sampler, label="Sampler")
            fields["schedule"] = gr.Radio(
                SCHEDULES,
                value=paper.schedule,
                label="Schedule",
                info="stable-audio-tools' samplers have their own",
            )
            fields["eta"] = gr.Slider(0, 1, paper.eta, label="New noise of ddim")
            fields["resamplings"] = gr.Number(
                paper.resamplings, precision=0, minimum=1, label="Resamplings of repaint"
            )
        with gr.Row():
            fields["interval_from"] = gr.Slider(0, 1, 0.0, label="Guidance from noise")
            fields["interval_to"] = gr.Slider(0, 1, 1.0, label="to noise")
            fields["cfg_rescale"] = gr.Slider(0, 1, paper.cfg_rescale, label="Rescale")
            fields["apg_scale"] = gr.Slider(0, 1, paper.apg_scale, label="APG")
    with gr.Accordion("Quality, silence and long songs", open=False, elem_id="mge-quality"):
        _quality(fields, paper, finish)


def _quality(fields: Fields, paper: Sampling, finish: Finish) -> None:
    with gr.Row():
        fields["candidates"] = gr.Number(
            paper.candidates, precision=0, minimum=1, label="Candidates", info="the best is kept"
        )
        fields["refine"] = gr.Radio(
            REFINEMENTS, value=finish.refine, label="Refine", info="filter the mixture"
        )
    with gr.Row():
        fields["gate"] = gr.Checkbox(
            finish.gate,
            label="Gate",
            info="A source that is not there is silent",
            elem_id="mge-gate",
        )
        fields["gate_threshold"] = gr.Slider(
            0, 1, finish.gate_threshold, label="Presence under which it is not there"
        )
    with gr.Row():
        fields["long_form"] = gr.Radio(
            LONG_FORMS, value=paper.long_form, label="Windows of a long song"
        )
        fields["window_batch"] = gr.Number(
            paper.window_batch, precision=0, minimum=1, label="Windows at a time"
        )
        fields["preview_every"] = gr.Number(
            _PREVIEW_EVERY, precision=0, minimum=0, label="Preview every", info="steps, 0: never"
        )
