"""Single lines: the lead melody, built from two motifs per section, and counter-lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .score import Instrument
from .styles import Bar, Event, Song, choose, each_section, hold, of_length, read_steps
from .theory import Chord, nearest, pitches_of, step_in

MOTIFS = (
    "x---x---x-x-x---",
    "x--x--x-----x-x-",
    "..x-x-x-x---....",
    "x-x-x-x-x-------",
    "x-----x-x---x---",
    "....x-x-x---x---",
    "x---..x-x-x-x-x-",
    "x-xxx-x-x---....",
    "x--x--x--x--x---",
    "x-------x---x-x-",
    "..x---x---x-x---",
    "x-x-..x-x-..x-x-",
    "x---x-x-x---",
    "x-------x---",
    "x-x-x-x-x---",
    "x---x---x-x-",
    "..x-x-x-x---",
)
CADENCES = (
    "x---x-x---------",
    "x-----------....",
    "x-x-x-------....",
    "x--x--x-----....",
    "x---x-------",
    "x-----------",
)
ANSWERS = (
    "........x-x-x---",
    "......x-x---x---",
    "........x---x-x-",
    "......x-x---",
    "....x-x-x-..",
)
_STEPS = (-3, -2, -1, -1, -1, 1, 1, 1, 2, 2, 4)  # of the scale, between notes of a motif
_LIFT = {"chorus": 4, "bridge": -2}  # semitones above the melody's home
_HIGHEST_HOME = 78  # MIDI pitch


@dataclass(frozen=True)
class _Motif:
    rhythm: str
    steps: tuple[int, ...]  # of the scale, one before each note
    anchor: int  # semitones from the theme's centre to the first note


@dataclass(frozen=True)
class _Theme:
    """Phrases of four bars, a a b cadence or a b a cadence, where a and b are motifs."""

    phrase: tuple[_Motif, _Motif, _Motif, _Motif]

    def motif_of(self, bar: Bar) -> _Motif:
        """The motif of a bar; a section's last bar always closes."""
        closes = bar.last_of_section and bar.section.bars > 1
        return self.phrase[3 if closes else bar.index % 4]


def _draw_motif(rhythms: Sequence[str], beats: int, rng: np.random.Generator) -> _Motif:
    rhythm = choose(of_length(rhythms, beats), rng)
    steps = [choose(_STEPS, rng) for _ in read_steps(rhythm)]
    for place in range(1, len(steps)):
        if sum(steps[:place]) * steps[place] > 6:  # far away already: turn back
            steps[place] = -steps[place]
    return _Motif(rhythm, tuple(steps), int(rng.integers(-4, 6)))


def _draw_theme(beats: int, rng: np.random.Generator) -> _Theme:
    a, b = (_draw_motif(MOTIFS, beats, rng) for _ in range(2))
    end = _draw_motif(CADENCES, beats, rng)
    return _Theme(choose(((a, a, b, end), (a, b, a, end)), rng))


def play_lead(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """A theme for each kind of section; a motif returns on the chord of its bar."""
    themes = each_section(bars, lambda: _draw_theme(song.style.beats, rng))
    gate = float(rng.uniform(0.8, 1.0))
    octaves = instrument.inst_class == "Piano" and rng.random() < 0.5
    home = min(instrument.low + 0.62 * (instrument.high - instrument.low), _HIGHEST_HOME)
    events = []
    for bar in bars:
        center = home + _LIFT.get(bar.section.name, 0)
        if bar.final:
            events += _hold_tone(bar, center, instrument)
            continue
        line = _play_motif(bar, themes[bar.section.name].motif_of(bar), center, gate, instrument)
        events += line
        if octaves:
            events += _octave_below(line, instrument)
    return events


def _play_motif(
    bar: Bar, motif: _Motif, center: float, gate: float, instrument: Instrument
) -> list[Event]:
    """The motif from the chord tone nearest to its anchor; strong beats land on chord tones."""
    steps = read_steps(motif.rhythm)
    pitch = nearest(_tones(bar.chord_at(steps[0][1]), instrument), center + motif.anchor)
    events = []
    for place, (_, beat, length) in enumerate(steps):
        chord = bar.chord_at(beat)
        if place:
            pitch = _fold(step_in(chord.scale, pitch, motif.steps[place]), instrument)
        if beat % 2 == 0 or place == len(steps) - 1:
            pitch = nearest(_tones(chord, instrument), pitch)
        accent = 8 if beat % 1 == 0 else 0
        velocity = (86 + accent + 4 * np.sin(np.pi * beat / bar.beats)) * bar.intensity
        events.append(Event(bar.beat + beat, length * gate, pitch, float(velocity)))
    return events


def _octave_below(line: Sequence[Event], instrument: Instrument) -> list[Event]:
    """The same line an octave lower and softer, as far as the instrument reaches."""
    return [
        Event(event.beat, event.length, event.pitch - 12, event.velocity - 12)
        for event in line
        if event.pitch - 12 >= instrument.low
    ]


def _tones(chord: Chord, instrument: Instrument) -> list[int]:
    return pitches_of(chord.tones, instrument.low, instrument.high)


def _fold(pitch: int, instrument: Instrument) -> int:
    """The same note an octave away where it leaves the instrument's range."""
    if pitch > instrument.high:
        return pitch - 12
    return pitch + 12 if pitch < instrument.low else pitch


def _hold_tone(bar: Bar, center: float, instrument: Instrument) -> list[Event]:
    """One chord tone for the whole bar."""
    pitch = nearest(_tones(bar.chord_at(0), instrument), center)
    return hold(bar, [pitch], 84 * bar.intensity)


def play_counter(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """Either a slow line through the chords or short answers in every other bar."""
    if rng.random() < 0.55:
        return _play_slow_line(bars, instrument, rng)
    motif = _draw_motif(ANSWERS, song.style.beats, rng)
    events = []
    for bar in bars:
        if bar.final:
            events += _hold_tone(bar, instrument.center, instrument)
        elif bar.index % 2 or bar.section.bars == 1:
            events += _play_motif(bar, motif, instrument.center, 0.9, instrument)
    return events


def _play_slow_line(
    bars: Sequence[Bar], instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """Thirds and sevenths, one per half bar or bar, each near the one before."""
    halves = 2 if rng.random() < 0.5 else 1
    pitch = instrument.center
    events = []
    for bar in bars:
        shares = 1 if bar.final else max(halves, len(bar.chords))
        length = bar.beats / shares
        for place in range(shares):
            tones = bar.chord_at(place * length).tones
            guides = pitches_of(tones[1:], instrument.low, instrument.high)
            others = [p for p in guides if p != pitch or place == 0]
            pitch = nearest(others, 0.8 * pitch + 0.2 * instrument.center)
            beat = bar.beat + place * length
            events.append(Event(beat, length * 0.95, pitch, 76 * bar.intensity))
    return events
