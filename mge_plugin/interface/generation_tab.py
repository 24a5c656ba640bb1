"""SAT's "Generation" tab, built by SAT, made to say only what this model can do."""

from pathlib import Path
from typing import Any

import gradio as gr

from mge_plugin.interface import files
from mge_plugin.interface.desk import QUEUE, Desk

# Labels of inputs that mean nothing to this model: its samplers have their own noise levels, its
# schedule is not shifted, its length is said in seconds. The layer and interval of a LoRA are SAT's
# own sampling loop's.
HIDDEN = frozenset({
    "Seconds start", "CFG norm threshold", "Sigma min", "Sigma max", "Sigma curve strength",
    "Adapt duration to conditioning", "Duration padding (sec)", "Cut to seconds total",
    "Use effective length for distribution shift", "Sampling schedule shift", "Anchor length",
    "Anchor log-SNR", "Rate", "log-SNR end", "Min seq len", "Max seq len", "Alpha min", "Alpha max",
    "Base shift", "Max shift", "Min length", "Max length", "Techniques", "Inversion Steps", "Gamma",
    "Unconditional", "Interval min", "Interval max", "Layer filter",
})  # fmt: skip
SCRIPT = Path(__file__).with_name("generation.js")
CFG_SCALE = 2.0  # the paper's, section E.3
INIT_NOISE = 0.7  # changes a sound and keeps its outline; SAT's default would leave nothing of it
LONGEST = 512.0  # seconds that the length slider reaches, as in SAT's page
TASKS_TEXT = (
    "A prompt alone makes new music. With an **Inpaint audio** it extracts that source from it, "
    "for example *The sound of the bass*. A prefix chooses another task: `generate:` music anew "
    "between the mask's ends, `add:` a source to the audio, `accompany:` the audio, a source, "
    "with a band, `compose:` from several sources, parted by commas. What each task makes on its "
    "way, and all tracks side by side, are in the **Stems** tab."
)
MASK_INFO = "Of the Inpaint audio: made or extracted anew from here"
LENGTH_INFO = "Of music without an audio; 0 is the model's own, {:.1f} s"
# Pictures in their own form, SAT's checkboxes with their labels.
STYLE = """<style>
.mge-pictures .thumbnail-item { aspect-ratio: auto !important; height: auto !important; }
.form:has(> #autoplay) { flex-wrap: wrap; }
#autoplay, #infinite-radio, #automatic-download { flex: 1 1 9em; min-width: 9em; }
</style>"""


def adjust(ui: gr.Blocks, desk: Desk, sample_size: int) -> None:
    """Hide, explain and connect the components of SAT's page; called inside of it."""
    parts = {label(block): block for block in ui.blocks.values() if label(block)}
    for block in ui.blocks.values():
        if label(block) in HIDDEN:
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
        gr.Markdown(TASKS_TEXT)
        gr.HTML(STYLE, padding=False)
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
    longest = ceil_tenth(seconds)
    return gr.update(maximum=longest, value=0.0), gr.update(maximum=longest, value=longest)


def ceil_tenth(seconds: float) -> float:
    """Up to the next tenth, a step of the sliders."""
    return round(-(-seconds * 10 // 1) / 10, 1)


def _set_defaults(parts: dict[str, Any], objective: str) -> None:
    parts["CFG scale"].value = CFG_SCALE
    if objective == "v":
        parts["Sampler type"].value = "v-ddim"  # the paper's
        noise = parts["Init noise level"]
        noise.value, noise.info = INIT_NOISE, "from 1 up the v-ddim samplers begin from noise alone"
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
    ui.load(None, js=SCRIPT.read_text())


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
    slider.minimum, slider.maximum, slider.step = 0.0, LONGEST, 0.1
    slider.value, slider.info = 0.0, LENGTH_INFO.format(seconds)
    for key, event in list(ui.default_config.fns.items()):  # SAT 0.0.20 would move the mask by it
        if (slider._id, "change") in event.targets:
            del ui.default_config.fns[key]


def _connect_mask(parts: dict[str, Any], seconds: float) -> None:
    """The mask takes in the whole audio until a user moves it."""
    start, end = parts["Mask Start (sec)"], parts["Mask End (sec)"]
    for slider, value in ((start, 0.0), (end, ceil_tenth(seconds))):
        slider.minimum, slider.maximum, slider.value = 0.0, ceil_tenth(seconds), value
    start.info, end.info = MASK_INFO, "to here; the rest stays as it is"

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
