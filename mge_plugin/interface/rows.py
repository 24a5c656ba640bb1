"""The right half of the Stems tab: a row for each track of the last run."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mge_plugin.interface import fields, form, pictures
from mge_plugin.interface.desk import Desk
from mge_plugin.interface.tracks import SILENT_DB, ShownTrack

COUNT = form.MAX_SOURCES + 3  # sources, what they are the sum of, the rest, and one set aside
LOUDEST_DB = 12.0
PICTURE_HEIGHT = 182  # CSS pixels, a player's
# A track used as another task's given audio -> that task.
USES = {"mixture": "extract", "submixture": "add", "source": "accompany"}


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


def build(desk: Desk, filled: dict[str, Any]) -> list[Row]:
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
                    height=PICTURE_HEIGHT,
                    **fields.PICTURE,
                )
            gain = gr.Slider(
                SILENT_DB, LOUDEST_DB, 0.0, step=0.5, label="Gain in the remix (dB)",
                info=f"{SILENT_DB:g} leaves it out",
            )  # fmt: skip
        with gr.Row():
            download = gr.DownloadButton("Download", size="sm", min_width=80)
            targets = [filled["task"], filled["given"]]
            for name in USES:
                button = gr.Button(f"Use as {name}", size="sm", min_width=80)
                button.click(user(desk, number, name), None, targets, show_progress="hidden")
            redo = gr.Button("Redo a part", size="sm", min_width=80)
            redo.click(taker(desk, number), None, [filled["current"]], show_progress="hidden")
    return Row(box, head, player, picture, gain, download)


def user(desk: Desk, number: int, name: str) -> Callable:
    """What "Use as ..." does: the next task, and the row's track as its given audio."""
    take = taker(desk, number)

    def use(request: gr.Request) -> list:
        return [USES[name], take(request)]

    return use


def taker(desk: Desk, number: int) -> Callable:
    """Hands over the file of a row's track, which this page's session made."""

    def take(request: gr.Request) -> str:
        tracks = desk.session(request.session_hash).tracks
        if number >= len(tracks):
            raise gr.Error("There is no such track yet: run a task first.", print_exception=False)
        return str(tracks[number].wav)

    return take
