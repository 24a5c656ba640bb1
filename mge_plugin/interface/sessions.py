"""One model for all pages, one run at a time; and what each page has uploaded and made.

A session belongs to a browser tab. It survives a reload of the page, is removed with its files some
minutes after its last page was closed, and has no folder before it has made something.
"""

import json
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from gradio.utils import get_upload_folder

from mge_plugin.data.audio import write_wav
from mge_plugin.files import output_name, write_file
from mge_plugin.inference.pipeline import Pipeline, pick_dtype
from mge_plugin.inference.request import Cancelled, Request, Result, parts
from mge_plugin.interface.media import Preview, file_url
from mge_plugin.models.mge import MGEModel
from mge_plugin.report.page import Clip, MixerTrack, render_mixer
from mge_plugin.report.pictures import measure_levels, spectrogram_png
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)

QUEUE = "mge_model"  # Gradio's name of the queue in which runs wait for the model
_DESK = "mge_desk"  # attribute of a model that has one
_KEEP_SECONDS = float(os.environ.get("MGE_UI_KEEP_SECONDS", "300"))  # after the last page
_SECONDS_BETWEEN = 0.3  # between two reports of a run
_MOST_RESULTS = 20  # of a session; the oldest is removed for another
FAILURES = (ValueError, TypeError, MemoryError, torch.OutOfMemoryError)  # what a user can mend
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """A finished run: its files on disk and its mixer."""

    title: str
    mixer: str  # HTML
    tracks: Mapping[str, Path]  # name -> WAV
    archive: Path  # a zip of the tracks and of info.json
    info: Mapping[str, Any]


def save_run(request: Request, result: Result, folder: Path) -> Run:
    """Write the tracks of a result, their pictures and the zip into `folder`."""
    song = output_name(result.name or request.task)
    tracks, shown = {}, []
    for name, audio, part in _rows(request, result):
        stem = output_name(f"{song}_{name}")
        tracks[name] = write_wav(folder / f"{stem}.wav", audio, result.sample_rate)
        picture = spectrogram_png(audio, result.sample_rate, axes=False)
        write_file(folder / f"{stem}.png", picture)
        said = result.info.get("tracks", {}).get(name, {})
        clip = Clip(
            name.replace("_", " "), _presence(said), audio, result.sample_rate, _text(said), part
        )
        shown.append(
            MixerTrack(
                clip,
                file_url(tracks[name]),
                file_url(folder / f"{stem}.png"),
                measure_levels(audio),
                download=tracks[name].name,
            )
        )
    archive = folder / f"{song}_{request.task}.zip"
    _zip(archive, [*tracks.values()], result.info)
    seed = result.info.get("add", result.info)["seed"]  # replace has two runs
    title = f"{result.name or 'new'}: {request.task}, seed {seed}"
    return Run(title, render_mixer(shown, f"{song}_mix"), tracks, archive, result.info)


def _rows(request: Request, result: Result) -> list[tuple[str, Any, bool]]:
    """Name, audio, and whether it is a part of the song: the whole, the parts, what was removed."""
    stems = parts(result.audio, request.task)
    others = {name: audio for name, audio in result.audio.items() if name not in stems}
    if request.info.given is Track.MIXTURE and "mixture" not in result.audio and request.audio:
        others = {"mixture": request.audio.samples, **others}
    names = sorted(others, key=lambda name: name != "mixture")
    whole = [(name, others[name], False) for name in names[:1]]
    aside = [(name, others[name], False) for name in names[1:]]
    return [*whole, *((name, audio, True) for name, audio in stems.items()), *aside]


def _zip(path: Path, tracks: Sequence[Path], info: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for track in tracks:
            archive.write(track, track.name)
        archive.writestr("info.json", json.dumps(info, indent=4, allow_nan=False))


def _text(info: Mapping[str, Any]) -> str | None:
    prompt = info.get("prompt")
    if isinstance(prompt, Mapping):
        return ", ".join(str(value) for value in prompt.values() if value)
    return prompt


def _presence(info: Mapping[str, Any]) -> str:
    presence = info.get("presence")
    if presence is None:
        return ""
    score, threshold = presence["score"], presence["threshold"]
    silenced = threshold is not None and score < threshold
    return f"presence {score:.2f}" + (f", silenced: under {threshold:g}" if silenced else "")


@dataclass
class Session:
    """What one browser tab has made, and whether its run should stop."""

    runs: list[Run] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)  # their folders, and those of the other tab
    uploads: set[Path] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)  # Gradio's hashes of its open pages
    is_waiting: bool = False  # a run was requested and did not begin
    is_running: bool = False
    folder: Path | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """A run was requested; it can be cancelled while it waits for the model."""
        self._stop.clear()
        self.is_waiting = True

    def cancel(self) -> bool:
        """Stop the run at its next step; whether there is one."""
        self._stop.set()
        return self.is_waiting or self.is_running

    @contextmanager
    def running(self) -> Iterator[None]:
        """While a run waits for the model or uses it."""
        self.is_waiting, self.is_running = False, True
        try:
            yield
        finally:
            self._stop.clear()
            self.is_running = False

    def check(self) -> None:
        """Raise Cancelled if the run should stop."""
        if self._stop.is_set():
            raise Cancelled("cancelled")


class Desk:
    """The model's pipeline and the sessions of all pages."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._model = threading.Lock()
        self._table = threading.RLock()
        self._sessions: dict[str, Session] = {}  # by key
        self._keys: dict[str, str] = {}  # page -> key of its session

    @contextmanager
    def model(self) -> Iterator[Pipeline]:
        """The pipeline, once no other run uses it."""
        with self._model, torch.no_grad():
            yield self.pipeline

    def open(self, page: str, key: str) -> Session:
        """Give a page the session of its browser tab."""
        with self._table:
            self._keys[page] = key or page
            session = self.session(page)
            session.pages.add(page)
            return session

    def session(self, page: str | None) -> Session:
        """The session of a page or of a caller of the API, by Gradio's session hash."""
        page = page or ""
        with self._table:
            return self._sessions.setdefault(self._keys.get(page, page), Session())

    def find(self, page: str | None) -> Session | None:
        """The session of a page, if it has one."""
        return self._sessions.get(self._keys.get(page or "", page or ""))

    def leave(self, page: str | None) -> None:
        """A page was closed: its run stops; its files go unless the tab comes back soon."""
        page = page or ""
        with self._table:
            key = self._keys.pop(page, page)
            session = self._sessions.get(key)
            if session is None:
                return
            session.pages.discard(page)
            if not session.pages:
                session.cancel()
        self.remove_later(key)

    def new_folder(self, page: str | None) -> Path:
        """A folder that Gradio may serve files from, under a name that cannot be guessed."""
        session = self.session(page)
        if session.folder is None:
            parent = Path(get_upload_folder())
            parent.mkdir(parents=True, exist_ok=True)
            session.folder = Path(tempfile.mkdtemp(prefix="mge_", dir=parent))
        if not session.pages:
            self.remove_later(page or "")
        return Path(tempfile.mkdtemp(dir=session.folder))

    def new_result(self, page: str | None) -> Path:
        """A new folder for a result; of too many, the oldest result is removed."""
        folder, session = self.new_folder(page), self.session(page)
        session.results.append(folder)
        if len(session.results) > _MOST_RESULTS:
            oldest = session.results.pop(0)
            session.runs = [run for run in session.runs if run.archive.parent != oldest]
            shutil.rmtree(oldest, ignore_errors=True)
        return folder

    def remove_later(self, key: str) -> None:
        """Remove a session without pages, some minutes from now; at once if it made nothing."""
        with self._table:
            session = self._sessions.get(key)
        if session is None:
            return
        timer = threading.Timer(
            _KEEP_SECONDS if session.folder or session.uploads else 0, self._remove, [key]
        )
        timer.daemon = True
        timer.start()

    def _remove(self, key: str) -> None:
        with self._table:
            session = self._sessions.get(key)
            if session is None or session.pages:
                return
            if session.is_running:  # look again later: it may end without a result
                return self.remove_later(key)
            del self._sessions[key]
            kept = set().union(*(other.uploads for other in self._sessions.values()))
        if session.folder is not None:
            shutil.rmtree(session.folder, ignore_errors=True)
        for upload in session.uploads - kept:
            upload.unlink(missing_ok=True)

    def note_uploads(self, page: str | None, values: Sequence[Any]) -> None:
        """Remember uploaded files, which are removed with the session."""
        uploads = Path(get_upload_folder()).resolve()
        paths = {Path(value).resolve() for value in values if isinstance(value, str)}
        session = self.session(page)
        session.uploads |= {path for path in paths if path.is_relative_to(uploads)}
        if not session.pages:
            self.remove_later(page or "")


def desk_of(model: MGEModel, sample_size: int) -> Desk:
    """The one desk of a model, kept on it; `sample_size` is the length of a window."""
    if not hasattr(model, _DESK):
        channels = model.pretransform.io_channels
        device = str(next(model.parameters()).device)
        _set_precision(model, device)
        setattr(model, _DESK, Desk(Pipeline(model, sample_size, channels, device)))
    return getattr(model, _DESK)


def _set_precision(model: MGEModel, device: str) -> None:
    """Undo what `run_gradio.py --model-half`, its default, does to the wrong parts.

    The autoencoder and the conditioner compute in float32; so does the network on a CPU, which is
    slow in half precision. On a GPU the network uses the precision that the command line uses.
    """
    half = next(model.model.parameters()).dtype is not torch.float32
    model.pretransform.float()
    model.conditioner.float()
    model.model.to(pick_dtype("auto", device) if half else torch.float32)
    if half:
        logger.info("the network computes in %s", next(model.model.parameters()).dtype)


@dataclass(frozen=True)
class Step:
    """How far a run is."""

    done: int
    total: int
    seconds_left: float | None
    stage: str  # "sample", "decode" or "refine"
    picture: bytes | None = None  # PNG of a preview


@dataclass(frozen=True)
class _End(Generic[Made]):
    made: Made


def perform(
    desk: Desk,
    page: str | None,
    request: Request,
    finish: Callable[[Result, Preview], Made],
    preview_every: int = 0,
) -> Iterator[Step | Made]:
    """Run `request` in a thread: yield its steps, then what `finish` makes of the result.

    What the run raises is raised here, Cancelled included. A page that stops listening stops the
    run.
    """
    session = desk.session(page)
    news: queue.Queue[Step | _End[Made] | Exception] = queue.Queue()

    def work() -> None:
        try:
            with session.running(), desk.model() as pipeline:
                session.check()
                preview = Preview(pipeline, request, preview_every)
                (result,) = pipeline.run([request], _Reporter(session, preview, news.put))
                news.put(_End(finish(result, preview)))
        except Exception as error:  # raised again in the page's thread
            news.put(error)
        if not session.pages:  # a call over the API, or a page that was closed
            desk.remove_later(page or "")

    threading.Thread(target=work, daemon=True).start()
    try:
        while isinstance(latest := news.get(), Step):
            yield latest
    except GeneratorExit:
        session.cancel()
        raise
    if isinstance(latest, Exception):
        raise latest
    yield latest.made


class _Reporter:
    """The pipeline's callback: reports steps now and then, and stops a cancelled run."""

    def __init__(self, session: Session, preview: Preview, put: Callable[[Step], None]) -> None:
        self.session, self.preview, self.put = session, preview, put
        self.done, self.total = 0, max(1, preview.pipeline.steps([preview.request]))
        self.began = time.monotonic()
        self.reported = 0.0

    def __call__(self, step: Mapping[str, Any]) -> None:
        self.session.check()
        self.done += step["advance"]
        picture = self.preview.add(step)
        now = time.monotonic()
        if picture is not None or now - self.reported >= _SECONDS_BETWEEN:
            self.reported = now
            left = (now - self.began) / self.done * (self.total - self.done) if self.done else None
            self.put(Step(self.done, self.total, left, step["stage"], picture))
