"""The left half of the Stems tab: what a user fills in, by the names that `form.job` reads."""

import inspect

import gradio as gr

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import LONG_FORMS, REFINEMENTS, SCHEDULES, Sampling
from mge_plugin.inference.samplers import sampler_names
from mge_plugin.interface import form
from mge_plugin.prompts import label_prompt

# Labels of Slakh, MUSDB18 and MoisesDB that most songs have.
SUGGESTIONS = (
    "bass", "drums", "guitar", "piano", "strings", "vocals", "organ", "brass", "reed", "pipe",
    "synth lead", "synth pad", "chromatic percussion", "choir",
)  # fmt: skip
PREVIEW_EVERY = 10  # steps
STEPS = 100
Fields = dict[str, gr.components.Component]
# No button that would upload a sound to a hub: Gradio 6 and 5 have different arguments for it.
_GRADIO_6 = "buttons" in inspect.signature(gr.Audio).parameters
PLAYER = {"buttons": ["download"]} if _GRADIO_6 else {"show_share_button": False}
PICTURE = {"buttons": ["fullscreen"]} if _GRADIO_6 else {"show_share_button": False}
WAVES = gr.WaveformOptions(show_recording_waveform=False)


def build(pipeline: Pipeline) -> Fields:
    """All fields, with what they do to each other."""
    fields: Fields = {}
    fields["task"] = gr.Radio(form.NAMES, value="extract", label="Task", elem_id="mge-task")
    explanation = gr.Markdown(form.HELP["extract"])
    fields["given"] = _audio("Given audio: the mixture", "mge-given")
    _prompts(fields)
    with gr.Accordion("Audio example", open=False, visible=pipeline.engine.hears):
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
    given = form.GIVEN.get(task)
    return [
        form.HELP[task],
        gr.update(visible=given is not None, label=f"Given audio: the {given}"),
        gr.update(visible=task in form.LENGTH),
        gr.update(visible=task == form.REPLACE),
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
        waveform_options=WAVES,
        **PLAYER,
    )


def _prompts(fields: Fields) -> None:
    fields["prompts"] = gr.Textbox(
        label="Prompts, one a line",
        placeholder="The sound of the bass",
        lines=2,
        elem_id="mge-prompts",
    )
    suggested = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[label] for label in SUGGESTIONS],
        samples_per_page=len(SUGGESTIONS),
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
    paper = Sampling()
    with gr.Row():
        fields["steps"] = gr.Slider(1, 500, STEPS, step=1, label="Steps", elem_id="mge-steps")
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
        _quality(fields, paper)


def _quality(fields: Fields, paper: Sampling) -> None:
    with gr.Row():
        fields["candidates"] = gr.Number(
            paper.candidates, precision=0, minimum=1, label="Candidates", info="the best is kept"
        )
        fields["refine"] = gr.Radio(
            REFINEMENTS, value=paper.refine, label="Refine", info="filter the mixture"
        )
    with gr.Row():
        fields["gate"] = gr.Checkbox(
            paper.gate,
            label="Gate",
            info="A source that is not there is silent",
            elem_id="mge-gate",
        )
        fields["gate_threshold"] = gr.Slider(
            0, 1, paper.gate_threshold, label="Presence under which it is not there"
        )
    with gr.Row():
        fields["long_form"] = gr.Radio(
            LONG_FORMS, value=paper.long_form, label="Windows of a long song"
        )
        fields["window_batch"] = gr.Number(
            paper.window_batch, precision=0, minimum=1, label="Windows at a time"
        )
        fields["preview_every"] = gr.Number(
            PREVIEW_EVERY, precision=0, minimum=0, label="Preview every", info="steps, 0: never"
        )
