"""What `run_gradio.py` opens for a three-track model: SAT's page, and the Stems tab beside it."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from stable_audio_tools.interface.interfaces import diffusion_cond

from mge_plugin.interface import generation_tab, stems_tab
from mge_plugin.interface.desk import desk_of
from mge_plugin.models.mge import MGEModel
from mge_plugin.registry import original

_SHORTEST = 11  # seconds of a window for which SAT 0.0.19 can build its mask's sliders


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
            stems_tab.build(desk)
        ui.unload(stems_tab.leaver(desk))
    return ui
