"""The Stems tab: fields at the left, a run with its preview, a row for each track at the right."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mge_plugin.data.audio import write_wav
from mge_plugin.inference.request import Cancelled
from mge_plugin.interface import fields, form, pictures, rows, tracks
from mge_plugin.interface.desk import QUEUE, Desk
from mge_plugin.interface.generation import FAILURES
from mge_plugin.interface.run import Step, perform
from mge_plugin.report.formats import format_length


def build(desk: Desk) -> None:
    """All of the tab, inside of a `gr.Tab`."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            filled = fields.build(desk.pipeline)
        with gr.Column(scale=3, min_width=340):
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="mge-run")
                stop = gr.Button("Cancel", variant="stop", elem_id="mge-cancel")
            status = gr.HTML(
                pictures.sentence("Nothing is made yet."), elem_id="mge-status", padding=False
            )
            preview = gr.Image(
                interactive=False,
                visible=False,
                label="Preview",
                elem_id="mge-preview",
                **fields.PICTURE,
            )
            shown = rows.build(desk, filled)
            below = _below(desk, shown)
    updated = [output for row in shown for output in row.outputs]
    _connect(desk, filled, stop, [start, status, preview, *updated, *below])


def _below(desk: Desk, shown: list[rows.Row]) -> list:
    """Under the rows: the remix, the zip, and how it was made; hidden until something is."""
    with gr.Group(visible=False) as group:
        with gr.Row():
            mix = gr.Button("Remix with these gains", elem_id="mge-remix")
            archive = gr.DownloadButton("Download all (zip)", elem_id="mge-zip")
        remix = gr.Audio(interactive=False, label="Remix", elem_id="mge-mixed", **fields.PLAYER)
        with gr.Accordion("How it was made", open=False):
            info = gr.JSON(show_label=False)
    gains = [row.gain for row in shown]
    mix.click(remixer(desk), gains, [remix], show_progress="minimal")
    return [group, archive, remix, info]


def _connect(desk: Desk, filled: fields.Fields, stop: gr.Button, outputs: list) -> None:
    """Run waits for the model in its queue; Cancel does not."""
    start, status, *_ = outputs
    waiting = start.click(beginner(desk), None, [start, status], queue=False)
    waiting.then(
        runner(desk, list(filled)),
        list(filled.values()),
        outputs,
        concurrency_id=QUEUE,
        concurrency_limit=1,
        show_progress="hidden",
        api_name="stems",
    )
    stop.click(canceller(desk), None, [status], queue=False, show_progress="hidden")


def beginner(desk: Desk) -> Callable:
    """What a click on Run does at once."""

    def begin(request: gr.Request) -> tuple:
        desk.session(request.session_hash).begin()
        return gr.update(interactive=False), pictures.sentence("Waiting for the model ...")

    return begin


def canceller(desk: Desk) -> Callable:
    """What a click on Cancel does at once."""

    def cancel(request: gr.Request) -> str:
        desk.session(request.session_hash).cancel()
        return pictures.sentence("Cancelling after this step ...")

    return cancel


def leaver(desk: Desk) -> Callable:
    """What closing the page does."""

    def leave(request: gr.Request) -> None:
        desk.leave(request.session_hash)

    return leave


def runner(desk: Desk, names: list[str]) -> Callable:
    """What a run tells the page, from the first step to the rows."""

    def run(request: gr.Request, *values: Any) -> Iterator[list]:
        session, filled = desk.session(request.session_hash), dict(zip(names, values, strict=True))
        try:
            every = int(filled["preview_every"] or 0)
            for news in perform(desk, session, form.job(filled), every):
                yield _step(news) if isinstance(news, Step) else _made(news)
        except Cancelled:
            yield _said("Cancelled.")
        except FAILURES as error:
            yield _said(str(error), error=True)
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        except Exception:
            yield _said("Something unexpected went wrong; the server's log has it.", error=True)
            raise

    return run


def remixer(desk: Desk) -> Callable:
    """The file of the parts summed with the rows' gains."""

    def remix(request: gr.Request, *gains: float) -> str:
        session = desk.session(request.session_hash)
        named = {
            track.name: gain
            for track, gain in zip(session.tracks, gains, strict=False)
            if track.part
        }
        try:
            audio = tracks.remixed(session.tracks, named)
        except FAILURES as error:
            raise gr.Error(str(error), print_exception=False) from error
        folder = Path(tempfile.mkdtemp(dir=session.folder))
        return str(write_wav(folder / "remix.wav", audio, session.tracks[0].sample_rate))

    return remix


NOT_THE_ROWS = [gr.skip() for _ in rows.shown([])] + [gr.skip() for _ in range(4)]
READY = gr.update(interactive=True)


def _step(step: Step) -> list:
    left = format_length(step.seconds_left)
    text = f"Step {step.done} of {step.total}, about {left} left"
    picture = gr.skip() if step.picture is None else gr.update(value=step.picture, visible=True)
    return [gr.skip(), pictures.progress(step.done, step.total, text), picture, *NOT_THE_ROWS]


def _said(text: str, error: bool = False) -> list:
    hidden = gr.update(value=None, visible=False)
    return [READY, pictures.sentence(text, error), hidden, *NOT_THE_ROWS]


def _made(made: tracks.Made) -> list:
    seed = made.info.get("seed", made.info.get("add", {}).get("seed"))
    said = pictures.sentence(f"Done: {made.info['task']}, seed {seed}.")
    hidden = gr.update(value=None, visible=False)
    below = [gr.update(visible=True), str(made.archive), None, dict(made.info)]
    return [READY, said, hidden, *rows.shown(made.tracks), *below]
