"""One model for all that pages ask of it, in turn; each page has a folder and a flag of its own.

The tracks that the Stems tab shows of a run, a row each, and their files.
"""

import json
import logging
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mge_plugin.data.audio import write_wav
from mge_plugin.files import output_name
from mge_plugin.inference.pipeline import Pipeline, pick_dtype
from mge_plugin.inference.request import Cancelled, Result
from mge_plugin.interface import files as pictures
from mge_plugin.interface.files import fresh_folder
from mge_plugin.models.mge import MGEModel

logger = logging.getLogger(__name__)

# The track of a result, or the given audio, that is the sum of the others; it has no gain.
_WHOLES = {
    "generate": "mixture",
    "extract": "given",
    "add": "mixture",
    "accompany": "mixture",
    "compose": "mixture",
    "replace": "mixture",
}
_ASIDE = {"replace": ("removed",)}  # shown, but no part of the sum
_GIVEN_NAMES = {"extract": "mixture", "add": "submixture", "accompany": "source"}
SILENT_DB = -60.0  # a gain that leaves a track out


@dataclass(frozen=True)
class ShownTrack:
    """One row: a sound, where it is on disk, and what is said of it."""

    name: str
    audio: np.ndarray  # (channels, samples)
    sample_rate: int
    wav: Path
    picture: Path
    info: Mapping[str, Any]
    part: bool  # whether the remix sums it

    @property
    def says(self) -> str:
        """Prompt and presence in words."""
        said = [text for text in (_prompt(self.info), _presence(self.info)) if text]
        return " · ".join(said)


@dataclass(frozen=True)
class Made:
    """What a run leaves for its page."""

    tracks: list[ShownTrack]
    archive: Path  # a zip of all tracks and the JSON
    info: Mapping[str, Any]


def keep(result: Result, given: np.ndarray | None, folder: Path) -> Made:
    """Write a result's tracks, their pictures and the zip into an empty folder."""
    task, rate = result.info["task"], result.sample_rate
    tracks = []
    for name, audio, part in _in_order(result, given):
        stem = output_name(name)
        wav = write_wav(folder / f"{stem}.wav", audio, rate)
        picture = pictures.spectrogram_file(folder / f"{stem}.png", audio, rate)
        info = result.info["tracks"].get(name, {})
        tracks.append(ShownTrack(name, audio, rate, wav, picture, info, part))
    return Made(tracks, _zipped(folder / f"{task}.zip", tracks, result.info), result.info)


def remixed(tracks: list[ShownTrack], gains: Mapping[str, float]) -> np.ndarray:
    """The parts summed with gains in dB; from SILENT_DB down a part is left out."""
    parts = {track.name: track.audio for track in tracks if track.part}
    if not parts:
        raise ValueError("remix: there are no tracks yet, run a task first")
    levels = {name: gain if gain > SILENT_DB else -np.inf for name, gain in gains.items()}
    factors = {name: 10 ** (levels.get(name, 0.0) / 20) for name in parts}
    return sum(np.float32(factors[name]) * audio for name, audio in parts.items())


def _in_order(result: Result, given: np.ndarray | None) -> list[tuple[str, np.ndarray, bool]]:
    """Name, audio and whether it is a part: the whole first, then what it is the sum of."""
    task, audio = result.info["task"], dict(result.audio)
    name = _GIVEN_NAMES.get(task)
    if name is not None and given is not None:
        audio[name] = given
    whole = _WHOLES[task] if _WHOLES[task] != "given" else name
    alone = len(audio) == 1
    aside = _ASIDE.get(task, ())
    first = (whole, audio.pop(whole), alone)
    return [first, *((track, heard, track not in aside) for track, heard in audio.items())]


def _zipped(path: Path, tracks: list[ShownTrack], info: Mapping[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for track in tracks:
            archive.write(track.wav, track.wav.name)
        archive.writestr("info.json", json.dumps(info, indent=4, ensure_ascii=False))
    return path


def _prompt(info: Mapping[str, Any]) -> str | None:
    prompt = info.get("prompt")
    if isinstance(prompt, Mapping):
        return ", ".join(str(value) for value in prompt.values() if value)
    return prompt


def _presence(info: Mapping[str, Any]) -> str | None:
    presence = info.get("presence")
    if presence is None:
        return None
    text, threshold = f"presence {presence['score']:.2f}", presence["threshold"]
    if threshold is not None and presence["score"] < threshold:
        text += f", silenced: under {threshold:g}"
    return text


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
        _settle(model, device)
        setattr(model, _DESK, Desk(Pipeline(model, sample_size, channels, device)))
    return getattr(model, _DESK)


def _settle(model: MGEModel, device: str) -> None:
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
