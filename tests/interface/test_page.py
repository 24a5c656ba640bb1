"""SAT's page with this model: what is shown works, what would not is hidden; and the Stems tab."""

import gradio as gr
import pytest
from stable_audio_tools.interface import gradio as sat_gradio
from stable_audio_tools.interface.interfaces import diffusion_cond as sat

from mge_plugin.interface import form, generation_tab
from mge_plugin.interface import form as fields
from mge_plugin.interface.desk import QUEUE
from tests.interface.conftest import WINDOW, tiny_config, tiny_model

# Everything on the Generation tab that a user can see; each of it is tried in test_generation.py.
WORKING = {
    "Seconds total", "Steps", "CFG scale", "Seed (set to -1 for random seed)", "CFG interval min",
    "CFG interval max", "CFG rescale amount", "APG scale", "Sampler type", "File format",
    "File naming", "Spec Preview Every", "Autoplay", "Infinite Radio", "Auto Download",
    "Init audio", "Init noise level", "Inpaint audio", "Mask Start (sec)", "Mask End (sec)",
    "Output audio", "Output spectrogram",
}  # fmt: skip


@pytest.fixture(scope="module")
def ui():
    model = tiny_model()
    model.use_lora, model.lora_names = False, []  # as SAT's load_model leaves it
    return sat_gradio.create_diffusion_cond_ui(tiny_config(), in_model=model, gradio_title="T")


def tab(ui, name):
    """All that is in a tab, containers apart."""
    (found,) = [b for b in ui.blocks.values() if isinstance(b, gr.Tab) and b.label == name]
    return [b for b in inside(found) if isinstance(b, gr.components.Component)]


def inside(block):
    if not block.visible:
        return
    yield block
    for child in getattr(block, "children", []):
        yield from inside(child)


def by_label(ui, name):
    return next(b for b in tab(ui, "Generation") if b.label == name)


def test_every_visible_label_of_sats_tab_is_known_to_work(ui):
    labels = {b.label for b in tab(ui, "Generation") if getattr(b, "label", None)}
    assert labels - WORKING == set()
    assert {"Steps", "Sampler type", "Mask End (sec)", "Inpaint audio", "Seconds total"} <= labels


@pytest.mark.skipif(not hasattr(sat, "has_lora"), reason="LoRA came with SAT 0.0.20")
def test_of_every_lora_the_strength_is_shown(monkeypatch):
    model = tiny_model()
    model.use_lora, model.lora_names = True, ["one", "two"]
    monkeypatch.setattr(sat, "has_lora", lambda _: True)
    page = sat_gradio.create_diffusion_cond_ui(tiny_config(), in_model=model)
    labels = [b.label for b in tab(page, "Generation") if getattr(b, "label", None)]
    assert labels.count("Strength") == 2
    assert set(labels) - WORKING == {"Strength"}


def test_no_row_is_empty(ui):
    rows = [b for b in ui.blocks.values() if isinstance(b, gr.Row) and b.visible and b.children]
    assert all(any(child.visible for child in row.children) for row in rows)


def test_the_module_knows_the_models_own_window(ui):
    assert sat.sample_size == WINDOW


def test_runs_of_both_tabs_wait_in_one_queue(ui):
    events = {e.fn.__name__: e for e in ui.fns.values() if e.concurrency_id == QUEUE}
    assert set(events) == {"generate_cond", "run"}


def test_the_mask_follows_the_audio(song_file):
    start, end = generation_tab.mask_ends(str(song_file), window=0.5)
    assert (start["value"], end["value"], end["maximum"]) == (0.0, 0.8, 0.8)
    assert generation_tab.mask_ends(None, window=0.52)[1]["value"] == 0.6


def test_both_tabs_read_files_themselves(ui):
    players = [b for b in ui.blocks.values() if isinstance(b, gr.Audio)]
    assert {b.type for b in players if b.label != "Remix"} == {"filepath"}


def test_the_tab_asks_for_all_that_a_job_reads(ui):
    labels = {b.label for b in tab(ui, "Stems") if getattr(b, "label", None)}
    assert {"Task", "Prompts, one a line", "Suggestions", "Sampler", "Refine"} <= labels
    assert "A sound like it" not in labels  # this model cannot hear


@pytest.mark.parametrize("task", form.NAMES)
def test_a_task_shows_what_it_needs(task):
    text, given, seconds, new = fields.choose(task)
    assert text == form.HELP[task]
    assert given["visible"] == (task not in ("generate", "compose")) != seconds["visible"]
    assert new["visible"] == (task == "replace")


def test_suggestions_make_lines():
    once = fields.with_suggestion(["bass"], "")
    assert fields.with_suggestion(["drums"], once).splitlines() == [
        "The sound of the bass",
        "The sound of the drums",
    ]


def test_a_config_that_is_not_ours_gets_sats_page(monkeypatch):
    seen = []
    monkeypatch.setattr(gr, "Blocks", lambda *_, **__: seen.append("SAT's") or 1 / 0)
    config = {"model_type": "diffusion_cond", "sample_size": 1, "sample_rate": 1, "model": {}}
    with pytest.raises(ZeroDivisionError):
        sat.create_diffusion_cond_ui(config, object())
    assert seen == ["SAT's"]
