"""Bass lines and drums: grooves with fills and crashes, and `hits` of single percussion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .score import Instrument
from .styles import (
    STEPS,
    Bar,
    Event,
    Song,
    choose,
    each_section,
    hold,
    of_length,
    read_steps,
    velocity_of,
)
from .theory import Chord, nearest, pitches_of

_HOME = 35  # MIDI pitch around which roots are played


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
    return nearest(pitches_of([root], instrument.low, instrument.high), _HOME)


def _tone(symbol: str, bar: Bar, beat: float, instrument: Instrument) -> int:
    """The pitch of a symbol of the line at this beat."""
    chord = bar.chord_at(beat)
    root = _root(chord.root, instrument)
    if symbol == "a":
        return _approach(root, bar, chord, instrument)
    if symbol == "o":
        return root + 12 if root + 12 <= instrument.high else root
    tones = {"r": chord.root, "t": chord.tones[1], "f": chord.tones[2], "s": chord.tones[-1]}
    return nearest(pitches_of([tones[symbol]], instrument.low, instrument.high), root + 3)


def _approach(root: int, bar: Bar, chord: Chord, instrument: Instrument) -> int:
    """A neighbour of the next root within the scale, on the side of the current root."""
    goal = _root(bar.next_root, instrument)
    neighbours = [p for p in pitches_of(chord.scale, goal - 2, goal + 2) if p != goal]
    inside = [p for p in neighbours if instrument.low <= p <= instrument.high]
    return nearest(inside, root) if inside else goal


KEYS = {
    "kick": 36,
    "snare": 38,
    "rim": 37,
    "clap": 39,
    "hat": 42,
    "pedal": 44,
    "open": 46,
    "ride": 51,
    "crash": 49,
    "shaker": 70,
    "tambourine": 54,
    "h": 50,  # high tom
    "m": 47,  # mid tom
    "l": 43,  # low tom
    "s": 38,  # snare within a fill
}
_FILLS = ("s.s.hhml", "sshhmmll", "s..sh.m.l.l.", "ssss", "h.m.l.l.", "s.ss", "hhhmmmllllss")
_SOFTER = {
    "shaker": 0.6,
    "tambourine": 0.7,
    "h": 0.8,
    "m": 0.8,
    "l": 0.8,
}  # these are loud in every kit
_SOUNDING = 0.45  # length of a hit, beats; a kit ignores the length
_CRASH = 2.0  # length of a crash, beats
HITS = (
    "x..x..x...x.x...",
    "x...x.x.....x.x.",
    "X..x....X..x....",
    "x.x.o.x.x.x.o.x.",
    "X...........x.x.",
    "x...x.x.x...",
    "X.....x.x...",
    "x...o...x.x.",
)


def play_drums(
    bars: Sequence[Bar], song: Song, kit: Instrument, rng: np.random.Generator
) -> list[Event]:
    """A groove for each kind of section, a fill before each change, a crash after it."""
    grooves = each_section(bars, lambda: _draw_groove(song, rng))
    ends = each_section(bars, lambda: choose(_FILLS, rng))
    events = []
    for bar in bars:
        if bar.final:
            events += _strike(bar)
            continue
        fill = ends[bar.section.name] if bar.last_of_section and bar.section.bars > 1 else ""
        events += _play_groove(bar, grooves[bar.section.name], len(fill), rng)
        events += _play_fill(bar, fill)
        if bar.index == 0 and bar.section.name in ("chorus", "bridge"):
            events.append(Event(bar.beat, _CRASH, KEYS["crash"], 100 * bar.intensity))
    return events


def _draw_groove(song: Song, rng: np.random.Generator) -> dict[str, str]:
    """One of the style's grooves, its time kept on the hat, open hat or ride, perhaps shaken."""
    groove: dict[str, str] = dict(choose(song.style.grooves, rng))
    if "time" in groove:
        keeper = choose(("hat", "hat", "hat", "ride", "open"), rng)
        rhythm = groove.pop("time")
        groove[keeper] = rhythm if keeper == "hat" else _eighths(rhythm)
    if rng.random() < 0.3:
        shaken = choose(("tambourine", "shaker"), rng)
        groove[shaken] = choose(("..x.", "o.x."), rng) * song.style.beats
    return groove


def _eighths(rhythm: str) -> str:
    """The rhythm without what falls between its eighths, all of it at one strength."""
    return "".join(symbol + "." for symbol in rhythm[::2].replace("o", "x"))


def _play_groove(
    bar: Bar, groove: dict[str, str], fill: int, rng: np.random.Generator
) -> list[Event]:
    """One bar of a groove; only the kick plays on under a fill of `fill` steps."""
    until = bar.beats - fill / STEPS
    events = []
    for piece, rhythm in groove.items():
        for symbol, beat, _ in read_steps(rhythm):
            skipped = symbol == "o" and rng.random() < 0.15
            if skipped or (beat >= until and piece != "kick"):
                continue
            velocity = velocity_of(symbol, bar) * _SOFTER.get(piece, 1.0)
            events.append(Event(bar.beat + beat, _SOUNDING, KEYS[piece], velocity))
    return events


def _play_fill(bar: Bar, fill: str) -> list[Event]:
    """A run over snare and toms that grows towards the end of the bar."""
    start = bar.beat + bar.beats - len(fill) / STEPS
    events = []
    for piece, beat, _ in read_steps(fill):
        velocity = (75 + 30 * STEPS * beat / len(fill)) * _SOFTER.get(piece, 1.0)
        events.append(Event(start + beat, _SOUNDING, KEYS[piece], velocity))
    return events


def _strike(bar: Bar) -> list[Event]:
    """Kick and crash together: the end."""
    return [
        Event(bar.beat, _CRASH, KEYS[piece], 105 * bar.intensity) for piece in ("kick", "crash")
    ]


def play_hits(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """A rhythm on two or three fixed pitches of the key, the low one on accents."""
    home = bars[0].chords[0]
    pitches = [p for p in range(instrument.low, instrument.high) if p % 12 in home.tones][:3]
    rhythms = each_section(bars, lambda: choose(of_length(HITS, song.style.beats), rng))
    events = []
    for bar in bars:
        if bar.final:
            events += hold(bar, pitches[:1], 95 * bar.intensity)
            continue
        for symbol, beat, length in read_steps(rhythms[bar.section.name]):
            pitch = pitches[0] if symbol == "X" or beat == 0 else choose(pitches[1:], rng)
            events.append(Event(bar.beat + beat, max(length, 0.5), pitch, velocity_of(symbol, bar)))
    return events
