"""The Stems tab: fields at the left, a run with its preview, a row for each track at the right.

A run beside the page: in a thread of its own, telling how far it is, stopped by a flag.

The right half of the Stems tab: a row for each track of the last run.
"""

import html
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from mge_plugin.data.audio import write_wav
from mge_plugin.inference.request import Cancelled
from mge_plugin.interface import desk as tracks
from mge_plugin.interface import files as pictures
from mge_plugin.interface import form
from mge_plugin.interface import form as fields
from mge_plugin.interface.desk import QUEUE, SILENT_DB, Desk, Session, ShownTrack
from mge_plugin.interface.files import Preview
from mge_plugin.interface.form import Job
from mge_plugin.interface.generation_tab import FAILURES
from mge_plugin.report.page import format_length

_SECONDS_BETWEEN = 0.3  # of two reports at least, so that a page can follow


@dataclass(frozen=True)
class Step:
    """How far a run is."""

    done: int
    total: int
    seconds_left: float
    picture: Image.Image | None = None


def perform(desk: Desk, session: Session, job: Job, every: int) -> Iterator[Step | tracks.Made]:
    """Run `job`; steps as they come, then what was made, which the session keeps.

    Every `every`th step has a picture. What the run raises is raised here, Cancelled included; a
    page that stops asking stops the run.
    """
    told: queue.Queue = queue.Queue()
    thread = threading.Thread(target=_work, args=(desk, session, job, every, told.put), daemon=True)
    thread.start()
    try:
        while not isinstance(news := told.get(), _End):
            yield news
    except GeneratorExit:
        session.cancel()
        raise
    if news.error is not None:
        raise news.error
    session.tracks = news.made.tracks
    yield news.made


@dataclass(frozen=True)
class _End:
    """What is told last."""

    made: tracks.Made | None = None
    error: Exception | None = None


def _work(desk: Desk, session: Session, job: Job, every: int, tell: Callable[[Any], None]) -> None:
    """Wait for the model, run, write the files; whatever happens, tell it last."""
    try:
        with desk.model() as pipeline:
            session.check()
            reporter = _Reporter(session, Preview(pipeline, job.requests[0], every), tell)
            reporter.total = job.steps(pipeline)
            result = job.run(pipeline, reporter)
        folder = Path(tempfile.mkdtemp(dir=session.folder))
        tell(_End(made=tracks.keep(result, job.given, folder)))
    except Exception as error:  # handed to the page's thread, which raises it
        tell(_End(error=error))


class _Reporter:
    """The callback: stops the run if it is to stop, and tells of its steps now and then."""

    def __init__(self, session: Session, preview: Preview, tell: Callable[[Any], None]) -> None:
        self.session, self.preview, self.tell = session, preview, tell
        self.done, self.total = 0, 1
        self.began = time.monotonic()
        self.told = 0.0

    def __call__(self, step: Mapping[str, Any]) -> None:
        self.session.check()
        self.done += step["advance"]
        every = self.preview.every
        picture = None
        if every and "denoised" in step and step["i"] % every == 0:
            picture = self.preview.picture(step)
        now = time.monotonic()
        if picture is not None or now - self.told >= _SECONDS_BETWEEN:
            self.told = now
            left = (now - self.began) / max(1, self.done) * max(0, self.total - self.done)
            self.tell(Step(self.done, max(self.total, self.done), left, picture))


COUNT = form.MAX_SOURCES + 3  # sources, what they are the sum of, the rest, and one set aside
_LOUDEST_DB = 12.0
_PICTURE_HEIGHT = 182  # CSS pixels, a player's
# A track used as another task's given audio -> that task.
_USES = {"mixture": "extract", "submixture": "add", "source": "accompany"}


@dataclass(frozen=True)
class Row:
    """The components of a row that change with its track, in the order of `shown`."""

    box: gr.Column
    title: gr.HTML
    player: gr.Audio
    picture: gr.Image
    gain: gr.Slider
    download: gr.DownloadButton

    @property
    def outputs(self) -> list:
        """For Gradio's events."""
        return list(vars(self).values())


def _build_rows(desk: Desk, filled: dict[str, Any]) -> list[Row]:
    """All rows, hidden, with their buttons, which fill in the form."""
    return [_row(desk, number, filled) for number in range(COUNT)]


def shown(tracks: list[ShownTrack]) -> list:
    """Updates of all rows' outputs."""
    updates = []
    for number in range(COUNT):
        updates += _shown(tracks[number]) if number < len(tracks) else _hidden()
    return updates


def _shown(track: ShownTrack) -> list:
    return [
        gr.update(visible=True),
        title(track),
        gr.update(value=str(track.wav), label=track.name),
        gr.update(value=str(track.picture)),
        gr.update(value=0.0, visible=track.part),
        gr.update(value=str(track.wav)),
    ]


def _hidden() -> list:
    return [gr.update(visible=False), "", *(gr.update(value=None) for _ in range(2)), 0.0, None]


def title(track: ShownTrack) -> str:
    """Name, prompt, presence and level, HTML."""
    words = f'<span style="opacity:0.75">{html.escape(track.says)}</span>'
    return (
        '<div style="padding:0.6em 0.8em;background:var(--block-background-fill)">'
        '<div style="display:flex;flex-wrap:wrap;gap:0.3em 1em;align-items:baseline">'
        f"<strong>{html.escape(track.name.replace('_', ' '))}</strong>{words}</div>"
        f"{pictures.meter(track.audio, track.sample_rate)}</div>"
    )


def _row(desk: Desk, number: int, filled: dict[str, Any]) -> Row:
    with gr.Column(visible=False, elem_classes="mge-track") as box:
        with gr.Group():
            head = gr.HTML(padding=False)
            with gr.Row():
                player = gr.Audio(
                    interactive=False,
                    type="filepath",
                    min_width=240,
                    label="track",
                    **fields.PLAYER,
                )
                picture = gr.Image(
                    interactive=False,
                    min_width=240,
                    show_label=False,
                    height=_PICTURE_HEIGHT,
                    **fields.PICTURE,
                )
            gain = gr.Slider(
                SILENT_DB, _LOUDEST_DB, 0.0, step=0.5, label="Gain in the remix (dB)",
                info=f"{SILENT_DB:g} leaves it out",
            )  # fmt: skip
        with gr.Row():
            download = gr.DownloadButton("Download", size="sm", min_width=80)
            targets = [filled["task"], filled["given"]]
            for name in _USES:
                button = gr.Button(f"Use as {name}", size="sm", min_width=80)
                button.click(user(desk, number, name), None, targets, show_progress="hidden")
            redo = gr.Button("Redo a part", size="sm", min_width=80)
            redo.click(_taker(desk, number), None, [filled["current"]], show_progress="hidden")
    return Row(box, head, player, picture, gain, download)


def user(desk: Desk, number: int, name: str) -> Callable:
    """What "Use as ..." does: the next task, and the row's track as its given audio."""
    take = _taker(desk, number)

    def use(request: gr.Request) -> list:
        return [_USES[name], take(request)]

    return use


def _taker(desk: Desk, number: int) -> Callable:
    """Hands over the file of a row's track, which this page's session made."""

    def take(request: gr.Request) -> str:
        tracks = desk.session(request.session_hash).tracks
        if number >= len(tracks):
            raise gr.Error("There is no such track yet: run a task first.", print_exception=False)
        return str(tracks[number].wav)

    return take


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
            shown = _build_rows(desk, filled)
            below = _below(desk, shown)
    updated = [output for row in shown for output in row.outputs]
    _connect(desk, filled, stop, [start, status, preview, *updated, *below])


def _below(desk: Desk, shown: list[Row]) -> list:
    """Under the rows: the remix, the zip, and how it was made; hidden until something is."""
    with gr.Group(visible=False) as group:
        with gr.Row():
            mix = gr.Button("Remix with these gains", elem_id="mge-remix")
            archive = gr.DownloadButton("Download all (zip)", elem_id="mge-zip")
        remix = gr.Audio(interactive=False, label="Remix", elem_id="mge-mixed", **fields.PLAYER)
        with gr.Accordion("How it was made", open=False):
            info = gr.JSON(show_label=False)
    gains = [row.gain for row in shown]
    mix.click(_remixer(desk), gains, [remix], show_progress="minimal")
    return [group, archive, remix, info]


def _connect(desk: Desk, filled: fields.Fields, stop: gr.Button, outputs: list) -> None:
    """Run waits for the model in its queue; Cancel does not."""
    start, status, *_ = outputs
    waiting = start.click(_beginner(desk), None, [start, status], queue=False)
    waiting.then(
        runner(desk, list(filled)),
        list(filled.values()),
        outputs,
        concurrency_id=QUEUE,
        concurrency_limit=1,
        show_progress="hidden",
        api_name="stems",
    )
    stop.click(_canceller(desk), None, [status], queue=False, show_progress="hidden")


def _beginner(desk: Desk) -> Callable:
    """What a click on Run does at once."""

    def begin(request: gr.Request) -> tuple:
        desk.session(request.session_hash).begin()
        return gr.update(interactive=False), pictures.sentence("Waiting for the model ...")

    return begin


def _canceller(desk: Desk) -> Callable:
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


def _remixer(desk: Desk) -> Callable:
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


_NOT_THE_ROWS = [gr.skip() for _ in shown([])] + [gr.skip() for _ in range(4)]
_READY = gr.update(interactive=True)


def _step(step: Step) -> list:
    left = format_length(step.seconds_left)
    text = f"Step {step.done} of {step.total}, about {left} left"
    picture = gr.skip() if step.picture is None else gr.update(value=step.picture, visible=True)
    return [gr.skip(), pictures.progress(step.done, step.total, text), picture, *_NOT_THE_ROWS]


def _said(text: str, error: bool = False) -> list:
    hidden = gr.update(value=None, visible=False)
    return [_READY, pictures.sentence(text, error), hidden, *_NOT_THE_ROWS]


def _made(made: tracks.Made) -> list:
    seed = made.info.get("seed", made.info.get("add", {}).get("seed"))
    said = pictures.sentence(f"Done: {made.info['task']}, seed {seed}.")
    hidden = gr.update(value=None, visible=False)
    below = [gr.update(visible=True), str(made.archive), None, dict(made.info)]
    return [_READY, said, hidden, *shown(made.tracks), *below]
