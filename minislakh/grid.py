"""Bars, events in beats, and rhythms written as strings of sixteenth steps.

In a rhythm every character is one step: `.` rests, `-` holds the step before, any other starts a
new event and says how. "X--x..o." is an accent of three steps, a normal one, and a quiet one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .score import Section
from .styles import Style
from .theory import Chord

STEPS = 4  # steps a beat
ACCENTS = {"X": 108.0, "o": 58.0}  # velocity of an upper-case X and of a ghost note
VELOCITY = 88.0  # velocity of everything else
INTENSITY = {"intro": 0.8, "verse": 0.88, "chorus": 1.0, "bridge": 0.9, "outro": 0.85}
T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    beat: float  # start, beats from the start of the song
    length: float  # beats
    pitch: int  # MIDI
    velocity: float  # 0 to 127


@dataclass(frozen=True)
class Bar:
    beat: float  # start, beats from the start of the song
    beats: int
    section: Section
    index: int  # place in its section
    chords: tuple[Chord, ...]  # share the bar evenly
    next_root: int  # pitch class of the chord after this bar
    final: bool  # the song's last bar, where everyone holds

    def chord_at(self, beat: float) -> Chord:
        """The chord that sounds `beat` beats into the bar."""
        place = int(beat * len(self.chords) / self.beats)
        return self.chords[min(place, len(self.chords) - 1)]

    @property
    def last_of_section(self) -> bool:
        return self.index == self.section.bars - 1

    @property
    def intensity(self) -> float:
        return INTENSITY[self.section.name]


@dataclass(frozen=True)
class Song:
    """What all parts of a song share."""

    style: Style
    key: str
    tempo: float  # beats a minute
    bars: tuple[Bar, ...]
    sections: tuple[Section, ...]


def read_steps(pattern: str) -> list[tuple[str, float, float]]:
    """(symbol, start, length) of each event of a rhythm; in beats from the start of the rhythm."""
    found: list[tuple[str, int, int]] = []
    for step, symbol in enumerate(pattern):
        if symbol == "-" and found:
            found[-1] = (found[-1][0], found[-1][1], step + 1 - found[-1][1])
        elif symbol not in ".-":
            found.append((symbol, step, 1))
    return [(symbol, start / STEPS, length / STEPS) for symbol, start, length in found]


def velocity_of(symbol: str, bar: Bar) -> float:
    """Velocity of a rhythm's symbol at the intensity of the bar's section."""
    return ACCENTS.get(symbol, VELOCITY) * bar.intensity


def of_length(patterns: Sequence[str], beats: int) -> list[str]:
    """Those rhythms that fill a bar of `beats` beats."""
    return [pattern for pattern in patterns if len(pattern) == beats * STEPS]


def choose(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, as it is (numpy's own choice would turn it into an array)."""
    return options[int(rng.integers(len(options)))]


def each_section(bars: Sequence[Bar], draw: Callable[[], T]) -> dict[str, T]:
    """One draw a kind of section, so that a second verse repeats the first."""
    return {name: draw() for name in dict.fromkeys(bar.section.name for bar in bars)}


def hold(bar: Bar, pitches: Sequence[int], velocity: float, spread: float = 0.0) -> list[Event]:
    """All `pitches` together for the whole bar, each `spread` beats after the one before."""
    return [
        Event(bar.beat + i * spread, bar.beats - i * spread - 0.1, pitch, velocity)
        for i, pitch in enumerate(pitches)
    ]
