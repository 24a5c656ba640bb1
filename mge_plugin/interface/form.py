"""The left half of the Stems tab: its fields, and the request that they describe.

The fields of the options come from the declarations in `mge_plugin.inference.request`: label, help
text, bounds and group of an option are written there once.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Finish, Keep, Request, Sampling
from mge_plugin.inference.sampling import sampler_names
from mge_plugin.interface.media import PLAYER, QUIET, read_upload
from mge_plugin.prompts import Prompt, label_prompt
from mge_plugin.tracks import TASKS

_HELP = {
    "generate": "New music from a text.",
    "extract": "The sources that the prompts name, and the rest, from a mixture.",
    "add": "New sources that fit a submixture, one after another.",
    "accompany": "The rest of the band for a source.",
    "compose": "A song, source by source, each fitting those before it.",
    "replace": "Another instrument in place of one in a mixture.",
}
# Labels of Slakh, MUSDB18 and MoisesDB that most songs have.
_SUGGESTIONS = (
    "bass", "drums", "guitar", "piano", "strings", "vocals", "organ", "brass", "reed", "pipe",
    "synth lead", "synth pad", "chromatic percussion", "choir",
)  # fmt: skip
_ALWAYS_VISIBLE = ("steps", "cfg_scale", "seed")
_PREVIEW_EVERY = 5  # steps
_RANDOM_SEEDS = 2**32
EXAMPLE = Path(__file__).with_name("example.flac")  # ten seconds of MiniSlakh
Fields = dict[str, gr.components.Component]
_OPTIONS = {field.name: field for cls in (Sampling, Finish) for field in dataclasses.fields(cls)}


def presets(model_default: Sampling) -> dict[str, Sampling]:
    """Sampling by name; the first is the model's own."""
    scale = model_default.cfg_scale
    return {
        "model's default": model_default,
        "fast": Sampling(steps=8, cfg_scale=scale),
        "fine": Sampling(steps=50, cfg_scale=scale, candidates=4),
        "paper": Sampling.paper(),
    }


def build(pipeline: Pipeline) -> Fields:
    """The fields above the Run button, by the names that `read_request` reads."""
    fields: Fields = {}
    fields["task"] = gr.Radio(list(TASKS), value="extract", label="Task", elem_id="mge-task")
    explanation = gr.Markdown(_HELP["extract"])
    fields["given"] = _audio(_given_label("extract"), "mge-given")
    fields["songs"] = gr.File(
        label="More songs, with the same prompts", file_count="multiple", file_types=["audio"],
        type="filepath", height=90, elem_id="mge-songs",
    )  # fmt: skip
    fields["prompts"] = gr.Textbox(
        label="Prompts, one per line", placeholder="The sound of the bass", lines=2,
        elem_id="mge-prompts",
    )  # fmt: skip
    _suggest(fields["prompts"])
    fields["new_prompt"] = gr.Textbox(
        label="Prompt of the new instrument", visible=False, elem_id="mge-new-prompt"
    )
    fields["seconds"] = gr.Number(
        None, label="Seconds", info="Empty: one window of the model", visible=False
    )
    names = list(presets(pipeline.sampling))
    fields["preset"] = gr.Radio(names, value=names[0], label="Quality", elem_id="mge-preset")
    chosen = [fields[name] for name in ("given", "songs", "seconds", "new_prompt")]
    fields["task"].change(_choose, [fields["task"]], [explanation, *chosen], **QUIET)
    return fields


def build_options(fields: Fields, pipeline: Pipeline) -> None:
    """The fields below the Run button, folded."""
    with gr.Accordion("Audio example", open=False, visible=pipeline.supports_audio):
        fields["example"] = _audio("Audio that sounds like the source", "mge-example")
        fields["text_weight"] = gr.Slider(0, 1, 0.5, label="Weight of the text beside it")
    with gr.Accordion("Redo some seconds", open=False):
        fields["current"] = _audio("Current track: its other seconds stay", "mge-current")
        with gr.Row():
            fields["redo_from"] = gr.Number(0, label="From (s)")
            fields["redo_to"] = gr.Number(0, label="To (s)")
    groups: dict[str, list[str]] = {}
    for name, option in _OPTIONS.items():
        groups.setdefault(option.metadata["group"], []).append(name)
    for title, names in groups.items():
        with gr.Accordion(title, open=False, elem_id=f"mge-group-{title.lower()}"), gr.Row():
            for name in names:
                fields[name] = _option_field(name, pipeline)
            if title == "Guidance":
                fields["negative"] = gr.Textbox(
                    label="Negative prompt", placeholder="a prompt to stay away from"
                )
    with gr.Row():
        fields["preview_every"] = gr.Number(
            _PREVIEW_EVERY, precision=0, minimum=0, label="Preview every", info="steps; 0: never"
        )
    sampled = [field.name for field in dataclasses.fields(Sampling) if field.name != "seed"]
    fields["preset"].change(
        _presetter(presets(pipeline.sampling), sampled),
        [fields["preset"]],
        [fields[name] for name in sampled],
        **QUIET,
    )
    for name, field in fields.items():
        field.preprocess = _naming(name, field.preprocess)


def read_request(values: Mapping[str, Any], song: str | None = None) -> Request:
    """The request that the fields describe, of `song` or of the given audio."""
    task = TASKS.get(values["task"])
    if task is None:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, found {values['task']!r}")
    given = song or values["given"] if task.given is not None else None
    return Request(
        values["task"],
        _prompts(values),
        read_upload(given, "Given audio"),
        (values["seconds"] or None) if task.has_length else None,
        negative=(values["negative"] or "").strip() or None,
        keep=_keep(values),
        new_prompt=(values["new_prompt"] or "").strip() if task.new_prompt else None,
        sampling=_read_options(Sampling, values),
        finish=_read_options(Finish, values),
    )


def _read_options(cls: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of options from the fields of the same names."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: _read_option(name, values[name]) for name in names})


def _read_option(name: str, value: Any) -> Any:
    """A number, a text, or a tuple from "0 1"; the seed -1 is a random one."""
    if name == "seed" and value in (-1, None):
        return random.SystemRandom().randrange(_RANDOM_SEEDS)
    if not _is_tuple(name) or not isinstance(value, str):
        return value
    try:
        numbers = tuple(float(number) for number in re.split(r"[\s,]+", value.strip()))
    except ValueError:
        raise ValueError(f"{name}: expected numbers, found {value!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _is_tuple(name: str) -> bool:
    return "tuple" in str(_OPTIONS[name].type)


def _prompts(values: Mapping[str, Any]) -> list[Prompt]:
    """One prompt per line if the task takes several, else all lines as one; and the example."""
    lines = [line.strip() for line in (values["prompts"] or "").splitlines() if line.strip()]
    if not TASKS[values["task"]].several:
        lines = [" ".join(lines)] if lines else []
    example = read_upload(values["example"], "Audio example")
    if example is None:
        return list(lines) or [""]
    if len(lines) > 1:
        raise ValueError(f"an audio example goes with one prompt, found {len(lines)} lines")
    prompt = {"audio": example.samples, "sample_rate": example.sample_rate}
    if lines:
        prompt |= {"text": lines[0], "text_weight": float(values["text_weight"])}
    return [prompt]


def _keep(values: Mapping[str, Any]) -> Keep | None:
    """The track of which only some seconds are generated again."""
    current = read_upload(values["current"], "Current track")
    if current is None:
        return None
    redo = (float(values["redo_from"] or 0.0), float(values["redo_to"] or 0.0))
    return Keep(current, (redo,))


def _choose(task: str) -> list:
    """Show the fields that a task needs."""
    info = TASKS[task]
    return [
        _HELP[task],
        gr.update(visible=info.given is not None, label=_given_label(task)),
        gr.update(visible=info.given is not None),
        gr.update(visible=info.has_length),
        gr.update(visible=info.new_prompt),
    ]


def _given_label(task: str) -> str:
    given = TASKS[task].given
    return f"Given audio: the {given.label}" if given is not None else "Given audio"


def _suggest(prompts: gr.Textbox) -> None:
    """Buttons that add a line to the prompts."""
    suggested = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[label] for label in _SUGGESTIONS],
        samples_per_page=len(_SUGGESTIONS),
        label="Suggestions",
        elem_id="mge-suggestions",
    )
    suggested.click(_with_suggestion, [suggested, prompts], [prompts], **QUIET)


def _with_suggestion(label: str | list[str], prompts: str | None) -> str:
    """The prompts and a line for one more label."""
    label = label[0] if isinstance(label, list) else label
    lines = [line for line in (prompts or "").splitlines() if line.strip()]
    return "\n".join([*lines, label_prompt(label)])


def _presetter(table: Mapping[str, Sampling], names: list[str]) -> Callable:
    """A preset's name -> the values of the options."""

    def values(preset: str) -> list:
        return [_shown(name, getattr(table[preset], name)) for name in names]

    return values


def _audio(label: str, elem_id: str) -> gr.Audio:
    waves = gr.WaveformOptions(show_recording_waveform=False)
    return gr.Audio(
        label=label, sources=["upload", "microphone"], type="filepath", elem_id=elem_id,
        waveform_options=waves, **PLAYER,
    )  # fmt: skip


def _option_field(name: str, pipeline: Pipeline) -> gr.components.Component:
    """The component of an option: its default is the model's, the rest is its declaration."""
    option, value = _OPTIONS[name], getattr(pipeline.sampling, name, _OPTIONS[name].default)
    meta = option.metadata
    words = {
        "label": _label(name),
        "info": meta["help"],
        "elem_id": f"mge-{name}",
        "min_width": 160,
    }
    choices = meta["choices"]
    if name == "sampler":
        choices, words["info"] = sampler_names(pipeline.model.diffusion_objective), None
    if choices is not None:
        kind = gr.Radio if len(choices) < 4 else gr.Dropdown
        return kind(list(choices), value=value, **words)
    if isinstance(option.default, bool):
        return gr.Checkbox(value, **words)
    if _is_tuple(name):
        return gr.Textbox(_shown(name, value), **words)
    if (meta["low"], meta["high"]) == (0, 1):
        return gr.Slider(0, 1, value, **words)
    if name == "seed":
        return gr.Number(-1, precision=0, minimum=-1, **words | {"info": "-1: a random one"})
    return gr.Number(value, precision=0, minimum=meta["low"], maximum=meta["high"], **words)


def _shown(name: str, value: Any) -> Any:
    """An option's value as its field shows it."""
    if isinstance(value, tuple):
        return " ".join(f"{number:g}" for number in value)
    return f"{value:g}" if _is_tuple(name) else value


def _label(name: str) -> str:
    words = name.replace("_", " ").capitalize()
    return re.sub("^(Cfg|Apg)", lambda found: found[0].upper(), words)


def _naming(name: str, preprocess: Callable) -> Callable:
    """`preprocess` of a field, whose errors name the field; the API passes values of any type."""

    def checked(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except gr.Error as error:
            raise gr.Error(f"{name}: {error.message}", print_exception=False) from error
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            text = f"{name}: a value of the wrong type, {payload!r:.100}"
            raise gr.Error(text, print_exception=False) from error

    return checked
