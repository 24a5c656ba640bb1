"""The tracks that the Stems tab shows of a run, a row each, and their files."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mge_plugin.data.audio import write_wav
from mge_plugin.files import output_name
from mge_plugin.inference.pipeline import remix
from mge_plugin.inference.result import Result
from mge_plugin.interface import pictures

# The track of a result, or the given audio, that is the sum of the others; it has no gain.
WHOLES = {
    "generate": "mixture",
    "extract": "given",
    "add": "mixture",
    "accompany": "mixture",
    "compose": "mixture",
    "replace": "mixture",
}
ASIDE = {"replace": ("removed",)}  # shown, but no part of the sum
GIVEN_NAMES = {"extract": "mixture", "add": "submixture", "accompany": "source"}
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
    return remix(Result(parts, tracks[0].sample_rate), levels)


def _in_order(result: Result, given: np.ndarray | None) -> list[tuple[str, np.ndarray, bool]]:
    """Name, audio and whether it is a part: the whole first, then what it is the sum of."""
    task, audio = result.info["task"], dict(result.audio)
    name = GIVEN_NAMES.get(task)
    if name is not None and given is not None:
        audio[name] = given
    whole = WHOLES[task] if WHOLES[task] != "given" else name
    alone = len(audio) == 1
    aside = ASIDE.get(task, ())
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
