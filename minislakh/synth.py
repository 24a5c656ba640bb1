"""Play a part with tinysoundfont and the soundfont that pretty_midi ships. No sound card needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .score import DRUM_CHANNEL, Note, Part

SOUNDFONT = "TimGM6mb.sf2"
SAMPLE_RATE = 44100  # Hz
NEEDED = ("tinysoundfont", "pretty_midi", "mido")
PERCUSSION_BANK = 128
GAIN = -10.0  # dB, keeps full chords below full scale
FADE = 0.1  # seconds at the end of the song in which what still sounds fades
DRAIN = 4096  # samples that let the synthesizer's voices die after a part


class MissingDependency(ImportError):
    """A package that only MiniSlakh needs is not installed."""


def require_packages() -> None:
    """Raise one sentence with the pip commands when a package is missing; imports nothing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"MiniSlakh needs {', '.join(missing)}: run pip install 'mge-plugin[minislakh]' "
            "and pip install --no-deps tinysoundfont"
        )


def find_soundfont() -> Path:
    """The soundfont inside pretty_midi's folder; found without importing pretty_midi."""
    spec = importlib.util.find_spec("pretty_midi")
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / SOUNDFONT).is_file():
            return folder / SOUNDFONT
    raise FileNotFoundError(f"{folders[0]}: {SOUNDFONT} is not there; reinstall pretty_midi")


@lru_cache(maxsize=4)
def open_soundfont(path: Path) -> Renderer:
    """One renderer per file and process: large soundfonts take seconds to load."""
    return Renderer(path)


class Renderer:
    """Renders parts with one soundfont. A part starts from silence, whatever was played before."""

    def __init__(self, path: Path) -> None:
        import tinysoundfont

        self.synth: Any = tinysoundfont.Synth(gain=GAIN, samplerate=SAMPLE_RATE)
        self.soundfont = self.synth.sfload(str(path))

    def render(self, part: Part, samples: int) -> np.ndarray:
        """Mono float32 audio of one part, (samples,), before any levelling."""
        instrument = part.instrument
        channel, bank = (DRUM_CHANNEL, PERCUSSION_BANK) if instrument.is_drum else (0, 0)
        self.synth.program_select(
            channel, self.soundfont, bank, instrument.preset, instrument.is_drum
        )
        stereo = np.zeros((samples, 2), dtype=np.float32)
        self._play(channel, part.notes, stereo)
        self.synth.sounds_off()
        self.synth.generate_simple(DRAIN)
        return _fade_out(0.5 * (stereo[:, 0] + stereo[:, 1]))

    def _play(self, channel: int, notes: Sequence[Note], stereo: np.ndarray) -> None:
        """Fill `stereo`, (samples, 2), between the events of the notes."""
        buffer = memoryview(stereo).cast("B")
        frame = stereo.itemsize * stereo.shape[1]
        done = 0
        for at, pitch, velocity in [*_switches(notes, len(stereo)), (len(stereo), 0, 0)]:
            if at > done:
                self.synth.generate_simple(at - done, buffer[done * frame : at * frame])
                done = at
            if velocity:
                self.synth.noteon(channel, pitch, velocity)
            elif at < len(stereo):
                self.synth.noteoff(channel, pitch)


def _switches(notes: Sequence[Note], samples: int) -> list[tuple[int, int, int]]:
    """(sample, pitch, velocity) by time, velocity 0 for a release, releases first."""
    events = []
    for note in notes:
        events.append((round(note.start * SAMPLE_RATE), 1, note.pitch, note.velocity))
        events.append((round(note.end * SAMPLE_RATE), 0, note.pitch, 0))
    return [(at, pitch, velocity) for at, _, pitch, velocity in sorted(events) if at < samples]


def _fade_out(audio: np.ndarray) -> np.ndarray:
    """Fade the last FADE seconds to zero, (samples,)."""
    length = min(len(audio), round(FADE * SAMPLE_RATE))
    audio[len(audio) - length :] *= np.linspace(1.0, 0.0, length, dtype=np.float32)
    return audio
