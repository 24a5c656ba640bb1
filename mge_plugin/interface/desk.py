"""One model for all that pages ask of it, in turn; each page has a folder and a flag of its own."""

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mge_plugin.inference.pipeline import Pipeline, pick_dtype
from mge_plugin.inference.request import Cancelled
from mge_plugin.interface.files import fresh_folder
from mge_plugin.interface.tracks import ShownTrack
from mge_plugin.models.mge import MGEModel

logger = logging.getLogger(__name__)
QUEUE = "mge_model"  # Gradio's name of the queue in which runs wait for the model
_DESK = "mge_desk"  # attribute of a model that has one


@dataclass
class Session:
    """One browser page: what it has made, and whether its run is to stop."""

    folder: Path = field(default_factory=fresh_folder)
    tracks: list[ShownTrack] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """A run is asked for; it may be cancelled before its turn has come."""
        self._stop.clear()

    def cancel(self) -> None:
        """Stop the run at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Raise Cancelled if the run is to stop."""
        if self._stop.is_set():
            raise Cancelled("cancelled")


class Desk:
    """A model's tasks, for one run at a time."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    @contextmanager
    def model(self) -> Iterator[Pipeline]:
        """The pipeline, once nobody else uses it."""
        with self._lock, torch.no_grad():
            yield self.pipeline

    def session(self, key: str | None) -> Session:
        """That of a page, by Gradio's session hash; a new page gets a new one."""
        session = self._sessions.get(key or "")
        if session is None:
            session = self._sessions.setdefault(key or "", Session())
        return session

    def leave(self, key: str | None) -> None:
        """The page was closed: its run stops and its files go."""
        if session := self._sessions.pop(key or "", None):
            session.cancel()
            shutil.rmtree(session.folder, ignore_errors=True)


def desk_of(model: MGEModel, sample_size: int) -> Desk:
    """The one desk of a model, kept on it; `sample_size` is a window's."""
    if not hasattr(model, _DESK):
        channels = model.pretransform.io_channels
        device = str(next(model.parameters()).device)
        settle(model, device)
        setattr(model, _DESK, Desk(Pipeline(model, sample_size, channels, device)))
    return getattr(model, _DESK)


def settle(model: MGEModel, device: str) -> None:
    """Undo what `run_gradio.py --model-half`, its default, does to the wrong parts.

    The autoencoder and the conditioner compute in float32; the network does so on a CPU, which is
    slow at halves, and on a GPU takes the half precision that the command line takes.
    """
    half = next(model.model.parameters()).dtype is not torch.float32
    model.pretransform.float()
    model.conditioner.float()
    model.model.to(pick_dtype("auto", device) if half else torch.float32)
    if half:
        logger.info("the network computes in %s", next(model.model.parameters()).dtype)
