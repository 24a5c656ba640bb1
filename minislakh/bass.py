"""The bass line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .grid import Bar, Event, Song, choose, each_section, hold, read_steps, velocity_of
from .score import Instrument
from .theory import Chord, nearest, pitches_of

HOME = 35  # MIDI pitch around which roots are played


def play_bass(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """One of the style's lines for each kind of section."""
    lines = each_section(bars, lambda: choose(song.style.basses, rng))
    gate = float(rng.uniform(0.7, 0.98))
    events = []
    for bar in bars:
        if bar.final:
            events += hold(bar, [_root(bar.chords[0].root, instrument)], 95 * bar.intensity)
            continue
        for symbol, beat, length in read_steps(lines[bar.section.name]):
            pitch = _tone(symbol, bar, beat, instrument)
            velocity = velocity_of("X" if beat == 0 else symbol, bar)
            events.append(Event(bar.beat + beat, length * gate, pitch, velocity))
    return events


def _root(root: int, instrument: Instrument) -> int:
    return nearest(pitches_of([root], instrument.low, instrument.high), HOME)


def _tone(symbol: str, bar: Bar, beat: float, instrument: Instrument) -> int:
    """The pitch that a symbol of the line means here."""
    chord = bar.chord_at(beat)
    root = _root(chord.root, instrument)
    if symbol == "a":
        return _approach(root, bar, chord, instrument)
    if symbol == "o":
        return root + 12 if root + 12 <= instrument.high else root
    tones = {"r": chord.root, "t": chord.tones[1], "f": chord.tones[2], "s": chord.tones[-1]}
    return nearest(pitches_of([tones[symbol]], instrument.low, instrument.high), root + 3)


def _approach(root: int, bar: Bar, chord: Chord, instrument: Instrument) -> int:
    """A neighbour of the next root within the scale, on the side that we come from."""
    goal = _root(bar.next_root, instrument)
    neighbours = [p for p in pitches_of(chord.scale, goal - 2, goal + 2) if p != goal]
    inside = [p for p in neighbours if instrument.low <= p <= instrument.high]
    return nearest(inside, root) if inside else goal
