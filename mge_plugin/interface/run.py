"""A run beside the page: in a thread of its own, telling how far it is, stopped by a flag."""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mge_plugin.interface import tracks
from mge_plugin.interface.desk import Desk, Session
from mge_plugin.interface.form import Job
from mge_plugin.interface.preview import Preview

SECONDS_BETWEEN = 0.3  # of two reports at least, so that a page can follow


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
        self.done += 1
        every = self.preview.every
        picture = None
        if every and (self.done - 1) % every == 0:
            picture = self.preview.picture(step)
        now = time.monotonic()
        if picture is not None or now - self.told >= SECONDS_BETWEEN:
            self.told = now
            left = (now - self.began) / self.done * max(0, self.total - self.done)
            self.tell(Step(self.done, max(self.total, self.done), left, picture))
