"""What `run_gradio.py` opens for a three-track model: SAT's page, and the Stems tab beside it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from stable_audio_tools.interface.interfaces import diffusion_cond

from mge_plugin.interface import generation_tab, stems_tab
from mge_plugin.interface.media import QUIET
from mge_plugin.interface.sessions import Desk, desk_of
from mge_plugin.models.mge import MGEModel
from mge_plugin.registry import original
from mge_plugin.report.page import mixer_script

_SHORTEST = 11  # seconds of a window for which SAT 0.0.19 can build its mask's sliders
_MAX_UPLOAD = os.environ.get("MGE_UI_MAX_UPLOAD", "500mb")  # size of a file, as Gradio writes it
_FILES_AGE = (600, 6 * 3600)  # seconds: how often Gradio looks for its files, their longest life
_POLL_SECONDS = 0.05  # between two looks at the empty queue; Gradio's 0.001 keep it busy
_SCRIPT = Path(__file__).with_name("page.js")
_STYLE = Path(__file__).with_name("page.css")


def create_mge_ui(
    model_config: Mapping[str, Any], in_model: MGEModel, *args: Any, **kwargs: Any
) -> gr.Blocks:
    """In place of SAT's `create_diffusion_cond_ui`, which builds the page first."""
    build = original(diffusion_cond.create_diffusion_cond_ui)
    size, rate = model_config["sample_size"], model_config["sample_rate"]
    buildable = {**model_config, "sample_size": max(size, _SHORTEST * rate)}
    ui = build(buildable, in_model, *args, **kwargs)
    diffusion_cond.sample_size = size
    desk = desk_of(in_model, size)
    with ui:
        tabs = next(block for block in ui.blocks.values() if isinstance(block, gr.Tabs))
        generation_tab.adjust(ui, desk, size)
        with tabs, gr.Tab("Stems"):
            results = stems_tab.build(desk)
        gr.HTML(f"<style>{_STYLE.read_text()}</style>", padding=False)
        _connect(ui, desk, results)
    ui.delete_cache = _FILES_AGE
    launch = ui.launch

    def launch_limited(*args: Any, **kwargs: Any) -> Any:  # SAT's script calls it
        ui._queue.sleep_when_free = _POLL_SECONDS
        return launch(*args, max_file_size=_MAX_UPLOAD, **kwargs)

    ui.launch = launch_limited
    return ui


def _connect(ui: gr.Blocks, desk: Desk, results: list) -> None:
    """Load the scripts, give the page its session, and end it when the page closes.

    Gradio 6.3 does not run the script that SAT gives its page; `page.js` does its work.
    """
    for name in ("js", "_deprecated_js"):  # Gradio 5's and 6's
        if getattr(ui, name, None):
            setattr(ui, name, None)
    key = gr.Textbox(visible=False)
    script = _SCRIPT.read_text().replace("/* mixer.js */", mixer_script())
    ui.load(stems_tab.restore(desk), [key], results, js=script, **QUIET)

    def leave(request: gr.Request) -> None:
        desk.leave(request.session_hash)

    ui.unload(leave)
