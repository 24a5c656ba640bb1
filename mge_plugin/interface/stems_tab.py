"""The Stems tab: a form on the left, the mixer with the tracks of a run on the right."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mge_plugin.inference.request import Cancelled, Request, Result
from mge_plugin.interface import form
from mge_plugin.interface.media import QUIET, Preview, progress, sentence
from mge_plugin.interface.sessions import (
    FAILURES,
    QUEUE,
    Desk,
    Run,
    Session,
    Step,
    perform,
    save_run,
)
from mge_plugin.report.page import format_length
from mge_plugin.tracks import TASKS

# The track whose audio a task is given -> that task.
_USES = {"mixture": "extract", "submixture": "add", "source": "accompany"}
_STAGES = {"sample": "Sampling", "decode": "Decoding", "refine": "Refining"}
_NOTHING = "Nothing is made yet."
_TOAST_SECONDS = 10


def build(desk: Desk) -> list:
    """All of the tab, inside of a `gr.Tab`; returns the components that `restore` fills."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            fields = form.build(desk.pipeline)
            with gr.Row():
                start = gr.Button("Run", variant="primary", min_width=80, elem_id="mge-run")
                stop = gr.Button("Cancel", variant="stop", min_width=80, elem_id="mge-cancel")
                example = gr.Button("Try an example song", min_width=80, elem_id="mge-try")
            form.build_options(fields, desk.pipeline)
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(sentence(_NOTHING), elem_id="mge-status", padding=False)
            results = _results(desk, fields)
    outputs = [start, status, *results]
    _connect(desk, fields, outputs)
    connect_cancel(desk, stop, status)
    example.click(
        _example(desk), None, [fields["task"], fields["given"], fields["prompts"]], **QUIET
    )
    return results


def _results(desk: Desk, fields: form.Fields) -> list:
    """What is shown of the session's runs; all of it is hidden before the first one."""
    with gr.Column(visible=False) as box:
        chosen = gr.Dropdown([], label="Results of this tab", elem_id="mge-results")
        mixer = gr.HTML("", elem_id="mge-mixer", padding=False)
        with gr.Row():
            archive = gr.DownloadButton(
                "Download all (zip)", size="sm", min_width=120, elem_id="mge-zip"
            )
            track = gr.Dropdown([], label="Track", min_width=120, elem_id="mge-track")
        with gr.Row():
            for name, task in _USES.items():
                use = gr.Button(f"Use track as {name}", size="sm", min_width=100)
                use.click(
                    _user(desk, task), [chosen, track], [fields["task"], fields["given"]], **QUIET
                )
            redo = gr.Button("Redo a part of it", size="sm", min_width=100)
            redo.click(_taker(desk), [chosen, track], [fields["current"]], **QUIET)
        with gr.Accordion("How it was made", open=False):
            info = gr.JSON(show_label=False)
    shown = [box, chosen, mixer, archive, track, info]
    chosen.input(_shower(desk), [chosen], shown, **QUIET)
    return shown


def show(session: Session | None, number: int = -1) -> list:
    """Updates of the results: the runs of the session, and one of them."""
    if session is None or not session.runs:
        return [gr.update(visible=False), *(gr.skip() for _ in range(5))]
    number %= len(session.runs)
    run = session.runs[number]
    titles = [(f"{n + 1}. {run.title}", n) for n, run in enumerate(session.runs)]
    names = list(run.tracks)
    return [
        gr.update(visible=True),
        gr.update(choices=titles[::-1], value=number),
        run.mixer,
        str(run.archive),
        gr.update(choices=names, value=names[-1]),
        dict(run.info),
    ]


def restore(desk: Desk) -> Callable:
    """What loading the page does: give it the session of its tab, and show its results."""

    def load(key: str, request: gr.Request) -> list:
        return show(desk.open(request.session_hash, key))

    return load


def connect_cancel(desk: Desk, button: gr.Button, status: gr.HTML) -> None:
    """Let a button stop the page's run, ahead of all that waits for the model."""

    def cancel(request: gr.Request) -> str:
        session = desk.find(request.session_hash)
        if session is None or not session.cancel():
            return sentence("Nothing is running.")
        return sentence("Cancelling after this step ...")

    button.click(cancel, None, [status], queue=False, **QUIET)


def connect_run(desk: Desk, run: Callable, inputs: list, outputs: list, name: str) -> None:
    """Let a button, the first output, say in the second that the run waits, and then run it."""
    start, status, *_ = outputs

    def begin(request: gr.Request) -> tuple:
        desk.session(request.session_hash).begin()
        return gr.update(interactive=False), sentence("Waiting for the model ...")

    waiting = start.click(begin, None, [start, status], queue=False, **QUIET)
    waiting.then(
        run,
        inputs,
        outputs,
        concurrency_id=QUEUE,
        concurrency_limit=1,
        show_progress="hidden",
        api_name=name,
    )


def with_names(function: Callable, names: list[str]) -> Callable:
    """Give `function(request, *values)` a parameter per name, as the API shows them."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("request", *names)]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def reports(work: Iterator[Any], skipped: int) -> Iterator[list]:
    """Outputs of a page while `work` runs: the button, the status, and `skipped` others.

    `work` yields steps, and a text with the other outputs whenever something is done.
    """
    ready, rest = gr.update(interactive=True), [gr.skip() for _ in range(skipped)]
    latest = None
    try:
        for news in work:
            if isinstance(news, Step):
                latest = news.picture or latest
                text = f"{_STAGES[news.stage]}: step {news.done} of {news.total}"
                if news.seconds_left:
                    text += f", about {format_length(news.seconds_left)} left"
                yield [gr.skip(), progress(news.done, news.total, text, latest), *rest]
            else:
                text, outputs = news
                yield [ready, sentence(text), *outputs]
    except Cancelled:
        yield [ready, sentence("Cancelled."), *rest]
    except FAILURES as error:
        yield [ready, sentence(str(error), error=True), *rest]
        raise gr.Error(str(error), duration=_TOAST_SECONDS, print_exception=False) from error
    except Exception:
        text = "Something unexpected went wrong; the server's log has the details."
        yield [ready, sentence(text, error=True), *rest]
        raise


def _connect(desk: Desk, fields: form.Fields, outputs: list) -> None:
    names = list(fields)

    def run(request: gr.Request, *values: Any) -> Iterator[list]:
        page = request.session_hash
        filled = dict(zip(names, values, strict=True))
        desk.note_uploads(page, [filled[name] for name in ("given", "example", "current")])
        desk.note_uploads(page, filled["songs"] or [])
        yield from reports(_songs(desk, page, filled), len(outputs) - 2)

    inputs = list(fields.values())
    connect_run(desk, with_names(run, names), inputs, outputs, "stems")


def _songs(desk: Desk, page: str | None, filled: dict[str, Any]) -> Iterator[Any]:
    """Run the request on each song; of several, one that fails does not stop the others."""
    songs = [song for song in (filled["given"], *(filled["songs"] or [])) if song]
    if filled["task"] in TASKS and TASKS[filled["task"]].given is None:
        songs = []
    failed: list[str] = []
    for number, song in enumerate(songs or [None], 1):
        try:
            request = form.read_request(filled, song)
            for news in perform(desk, page, request, _saver(desk, page, request), _every(filled)):
                if isinstance(news, Run):
                    session = desk.session(page)
                    session.runs.append(news)
                    of = f"Song {number} of {len(songs)}. " if len(songs) > 1 else ""
                    yield f"{of}Done: {news.title}.", show(session)
                else:
                    yield news
        except FAILURES as error:
            if len(songs) < 2:
                raise
            failed.append(f"{Path(song).name}: {error}")
    if failed:
        raise ValueError("; ".join(failed))


def _every(filled: dict[str, Any]) -> int:
    return int(filled["preview_every"] or 0)


def _saver(desk: Desk, page: str | None, request: Request) -> Callable[[Result, Preview], Run]:
    """What turns a result into a run of the session, still in the run's thread."""

    def save(result: Result, preview: Preview) -> Run:
        return save_run(request, result, desk.new_result(page))

    return save


def _shower(desk: Desk) -> Callable:
    """What choosing an earlier result does."""

    def choose(number: int, request: gr.Request) -> list:
        return show(desk.find(request.session_hash), number)

    return choose


def _user(desk: Desk, task: str) -> Callable:
    """What "Use track as ..." does: the next task, and the track as its given audio."""
    take = _taker(desk)

    def use(number: int, name: str, request: gr.Request) -> list:
        return [task, take(number, name, request)]

    return use


def _taker(desk: Desk) -> Callable:
    """The file of a track that this page's session made."""

    def take(number: int, name: str, request: gr.Request) -> str:
        session = desk.find(request.session_hash)
        try:
            return str(session.runs[number].tracks[name])  # type: ignore[union-attr]
        except (AttributeError, IndexError, KeyError, TypeError):
            text = "There is no such track: run a task first."
            raise gr.Error(text, duration=_TOAST_SECONDS, print_exception=False) from None

    return take


def _example(desk: Desk) -> Callable:
    """What "Try an example song" fills in."""

    def fill(request: gr.Request) -> list:
        song = desk.new_folder(request.session_hash) / "example.flac"
        song.write_bytes(form.EXAMPLE.read_bytes())
        return ["extract", str(song), "\n".join(map(form.label_prompt, ("bass", "drums")))]

    return fill
