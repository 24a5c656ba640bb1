"""Styles as tables (tempo, swing, grooves, bass lines, rhythms, usual instruments), and bars.

Rhythms are strings of sixteenth steps: `.` rests, `-` holds the step before, any other character
starts a new event and gives its accent. "X--x..o." is an accent of three steps, a normal event and
a quiet one. In a bass line the symbols are tones of the chord: r root, t third, f fifth, s its top
tone, o octave, a approach to the next bar's root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .score import Section
from .theory import Chord


@dataclass(frozen=True)
class Style:
    name: str
    tempo: tuple[int, int]  # beats per minute, lowest and highest
    beats: int  # beats per bar
    swing: float  # where the offbeat eighth falls within its beat; 0.5 is straight
    timing: float  # standard deviation of the players' timing, seconds
    jazz: bool  # jazz progressions
    chord_size: int  # 3 triads, 4 sevenths
    modes: tuple[str, ...]
    kits: tuple[int, ...]  # presets of the soundfont's percussion bank
    grooves: tuple[dict[str, str], ...]  # rhythm of each piece of the drum kit
    basses: tuple[str, ...]
    comps: tuple[str, ...]
    usual: tuple[int, ...]  # programs that belong to the style


_ROCK = Style(
    name="rock",
    tempo=(108, 150),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=False,
    chord_size=3,
    modes=("major", "minor", "mixolydian"),
    kits=(0, 16, 8),
    grooves=(
        {"kick": "X.....x.X.......", "snare": "....X.......X...", "time": "X.x.X.x.X.x.X.x."},
        {"kick": "X.x.....X.x.....", "snare": "....X.......X..o", "time": "X.x.X.x.X.x.X.x."},
        {"kick": "X.....x...x.x...", "snare": "....X.......X...", "time": "X...X...X...X..."},
    ),
    basses=("r.r.r.r.r.r.r.r.", "r-r.r.r-r.r.r.a.", "r---..r-r---f-o-", "r.r.r.o.r.r.f.a."),
    comps=("X-x.x.x.X-x.x.x.", "X-------X-------", "X--x--x-....X-x-", "X-----x-x-------"),
    usual=(29, 30, 27, 18, 34, 33, 1, 84, 81),
)
_POP = Style(
    name="pop",
    tempo=(92, 126),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=False,
    chord_size=3,
    modes=("major", "major", "minor", "dorian"),
    kits=(0, 8, 24),
    grooves=(
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "time": "x.x.x.x.x.x.x.x."},
        {"kick": "X..x..x...x.....", "snare": "....X.......X...", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...x...X...x...", "clap": "....X.......X...", "time": "..x...x...x...x."},
    ),
    basses=("r-----r-r-----f-", "r--r--r-r--r--a-", "r-------r---f---", "r-.r-.r-r-.r-.o-"),
    comps=("X---x---X---x---", "X--x--x-X--x--x-", "X-----x---x---x-", "x-.x-.x-.x-.x-x."),
    usual=(0, 25, 27, 33, 48, 50, 88, 89, 80, 11),
)
_BALLAD = Style(
    name="ballad",
    tempo=(62, 82),
    beats=4,
    swing=0.5,
    timing=0.010,
    jazz=False,
    chord_size=4,
    modes=("major", "major", "minor"),
    kits=(0, 40, 8),
    grooves=(
        {"kick": "X.........x.....", "rim": "....X.......X...", "time": "x.x.x.x.x.x.x.x."},
        {"kick": "X.....x.x.......", "snare": "....X.......X...", "time": "x.o.x.o.x.o.x.o."},
    ),
    basses=("r-----------f---", "r-----f-r-------", "r-----r-f-----a-", "r---------o-f---"),
    comps=("X---x---x---x---", "X-------x-------", "X-x-x-x-X-x-x-x-", "X---------x-x---"),
    usual=(0, 4, 24, 35, 48, 49, 52, 68, 73, 40, 42, 60, 46),
)
_FUNK = Style(
    name="funk",
    tempo=(92, 114),
    beats=4,
    swing=0.53,
    timing=0.004,
    jazz=False,
    chord_size=4,
    modes=("dorian", "mixolydian", "minor"),
    kits=(0, 8, 16),
    grooves=(
        {"kick": "X..x..x...x..x..", "snare": "....X..o.o..X..o", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X.x.....x.x.....", "snare": "....X..o.o.oX...", "time": "x.x.x.x.x.x.x.x."},
    ),
    basses=("r..r..o.r.s.f.a.", "r.rr..o...r.s.o.", "r-.o..r.f-.s..a.", "r...r.s.o.r...a."),
    comps=("..x...x..xx...x.", "X..x......x..x..", "x.ox.ox.x.ox.oxo", "....x-....x-..x."),
    usual=(7, 28, 27, 36, 37, 61, 62, 17, 65, 57, 4),
)
_SWING = Style(
    name="swing",
    tempo=(112, 176),
    beats=4,
    swing=0.64,
    timing=0.007,
    jazz=True,
    chord_size=4,
    modes=("major", "major", "minor"),
    kits=(32, 40),
    grooves=(
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "kick": "o.......o......."},
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "snare": "......o........o"},
    ),
    basses=("r---t---f---a---", "r---f---s---a---", "r---s---f---a---", "r-----f-t---a---"),
    comps=("X-....x-......x-", "......x-....x-..", "X-..........x-..", "..x-......x-...."),
    usual=(0, 26, 32, 11, 65, 66, 56, 59, 57, 71, 17),
)
_BOSSA = Style(
    name="bossa",
    tempo=(110, 142),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=True,
    chord_size=4,
    modes=("major", "minor"),
    kits=(40, 32, 0),
    grooves=(
        {"kick": "X.....x.X.....x.", "rim": "x.....x.....x...", "shaker": "xoxoxoxoxoxoxoxo"},
        {"kick": "X.....x.X.....x.", "rim": "....x.....x...x.", "time": "x.x.x.x.x.x.x.x."},
    ),
    basses=("r-----f-f-----r-", "r-----r-f-----a-", "r-----f-o-----f-"),
    comps=("x-..x-..x-..x-x-", "X--x--x---x--x--", "x---..x---..x-x-"),
    usual=(24, 26, 32, 35, 73, 75, 11, 0, 66, 21, 114, 113),
)
_ELECTRONIC = Style(
    name="electronic",
    tempo=(118, 134),
    beats=4,
    swing=0.5,
    timing=0.0,
    jazz=False,
    chord_size=3,
    modes=("minor", "minor", "dorian", "major"),
    kits=(24, 25),
    grooves=(
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..x...x...x...x."},
        {"kick": "X..x..X...x.....", "snare": "....X.......X...", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...X...X...X...", "snare": "............X...", "time": "xoxxxoxxxoxxxoxx"},
    ),
    basses=("..r...r...r...r.", "r.rrr.rrr.rrr.rr", "r..r..r.r..r..o.", "r.o.r.o.r.o.r.o."),
    comps=("x..x..x.x..x..x.", "..x...x...x...x.", "X..X..X...X..X..", "X---------------"),
    usual=(38, 39, 80, 81, 87, 90, 89, 95, 62, 63, 50, 103, 118),
)
_WALTZ = Style(
    name="waltz",
    tempo=(96, 150),
    beats=3,
    swing=0.5,
    timing=0.008,
    jazz=False,
    chord_size=3,
    modes=("major", "minor"),
    kits=(48, 0, 40),
    grooves=(
        {"kick": "X...........", "snare": "....x...x...", "time": "x...x...x..."},
        {"kick": "X.........x.", "rim": "....x...x...", "time": "x.x.x.x.x.x."},
    ),
    basses=("r-----------", "r-------f---", "r---t---f---", "r-------a---"),
    comps=("....x-..x-..", "X---x---x---", "X-x-x-x-x-x-", "X-------x---"),
    usual=(0, 24, 21, 23, 32, 48, 40, 42, 71, 73, 60, 45, 46, 6, 8),
)


def all_styles() -> tuple[Style, ...]:
    return (_ROCK, _POP, _BALLAD, _FUNK, _SWING, _BOSSA, _ELECTRONIC, _WALTZ)


STEPS = 4  # steps per beat
_ACCENTS = {"X": 108.0, "o": 58.0}  # velocity of an upper-case X and of a ghost note
_VELOCITY = 88.0  # velocity of everything else
_INTENSITY = {"intro": 0.8, "verse": 0.88, "chorus": 1.0, "bridge": 0.9, "outro": 0.85}
_T = TypeVar("_T")


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
    final: bool  # the song's last bar, in which every part holds

    def chord_at(self, beat: float) -> Chord:
        """The chord that sounds `beat` beats into the bar."""
        place = int(beat * len(self.chords) / self.beats)
        return self.chords[min(place, len(self.chords) - 1)]

    @property
    def last_of_section(self) -> bool:
        return self.index == self.section.bars - 1

    @property
    def intensity(self) -> float:
        return _INTENSITY[self.section.name]


@dataclass(frozen=True)
class Song:
    """What all parts of a song share."""

    style: Style
    key: str
    tempo: float  # beats per minute
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
    return _ACCENTS.get(symbol, _VELOCITY) * bar.intensity


def of_length(patterns: Sequence[str], beats: int) -> list[str]:
    """Those rhythms that fill a bar of `beats` beats."""
    return [pattern for pattern in patterns if len(pattern) == beats * STEPS]


def choose(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """One of `options`, as it is (numpy's own choice would turn it into an array)."""
    return options[int(rng.integers(len(options)))]


def each_section(bars: Sequence[Bar], draw: Callable[[], _T]) -> dict[str, _T]:
    """One draw per kind of section, so that a second verse repeats the first."""
    return {name: draw() for name in dict.fromkeys(bar.section.name for bar in bars)}


def hold(bar: Bar, pitches: Sequence[int], velocity: float, spread: float = 0.0) -> list[Event]:
    """All `pitches` together for the whole bar, each `spread` beats after the one before."""
    return [
        Event(bar.beat + i * spread, bar.beats - i * spread - 0.1, pitch, velocity)
        for i, pitch in enumerate(pitches)
    ]
