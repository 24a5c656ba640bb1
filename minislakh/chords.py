"""Harmony parts: comping, arpeggios, pads and stabs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .score import Instrument
from .styles import Bar, Event, Song, choose, each_section, hold, of_length, read_steps, velocity_of
from .theory import Chord, close_voicing, lead_voices, nearest, pitches_of

_POWER = (29, 30)  # programs that play power chords
_SHORT = (7, 28, 45)  # programs that comp staccato: clavinet, muted guitar, pizzicato
_SOLE = (55, 56, 57, 67)  # programs that stab with one note: orchestra hit, one brass or reed
FAMILY_RHYTHMS = {
    "Guitar": (
        "X---x-x---x-x-x-",
        "X-x-x-xxx-x-x-xx",
        "x.xox.xox.xox.xo",
        "X-----x-....x-x-",
        "X---x-x-x-x-",
        "X-..x-x-x-..",
    ),
    "Piano": (
        "X---x---X---x-x-",
        "X-----X-----X---",
        "X-x-X-x-X-x-X-x-",
        "X--x--x-..x-x---",
        "X---x-..x-..",
        "X-----x-----",
    ),
    "Organ": (
        "X---------------",
        "..x...x...x...x.",
        "X-----x---------",
        "X-------x--.x--.",
        "X-----------",
        "....x...x...",
    ),
}  # rhythms that belong to a family; everyone may play the style's own
ARPEGGIOS = (
    "0-1-2-3-2-1-2-3-",
    "0-2-1-2-3-2-1-2-",
    "0-1-2-3-4-3-2-1-",
    "0123210123212321",
    "3-2-1-0-3-2-1-0-",
    "0---2-3-1---2-3-",
    "0..2..4..2..3.2.",
    "0-1-2-3-2-1-",
    "0-2-3-4-3-2-",
    "0---1-2-3---",
)  # a digit is a voice of the chord, counted from below
STABS = (
    "X-..........X-x-",
    "..x.X---....x.X-",
    "X.......x.X-....",
    "......x-X---....",
    "X---........x.x.",
    "X---....x-x-",
    "....x-x-....",
)
_Voice = Callable[[Chord, list[int]], list[int]]


def _guitar(instrument: Instrument) -> _Voice:
    """Root in the bass, then wide; three strings for distorted guitars, five for the others."""

    def voice(chord: Chord, previous: list[int]) -> list[int]:
        root = nearest(pitches_of([chord.root], instrument.low, instrument.low + 12), 44)
        if instrument.program in _POWER:
            return [root, root + 7, root + 12]
        return [root, *pitches_of(chord.tones, root + 5, root + 24)[:4]]

    return voice


def _two_handed(instrument: Instrument) -> _Voice:
    """The left hand plays the root, the right one a close chord that moves as little as it can."""

    def voice(chord: Chord, previous: list[int]) -> list[int]:
        left = nearest(pitches_of([chord.root], instrument.low, 55), 45)
        right = previous[1:] or close_voicing(chord, 3, 64)
        return [left, *lead_voices(right, chord, 57, min(80, instrument.high))]

    return voice


def _close(instrument: Instrument, voices: int) -> _Voice:
    """Neighbouring chord tones that move as little as they can."""

    def voice(chord: Chord, previous: list[int]) -> list[int]:
        start = previous or close_voicing(chord, voices, instrument.center)
        low = max(instrument.low, instrument.center - 12)
        return lead_voices(start, chord, low, min(instrument.high, instrument.center + 12))

    return voice


def _voice_of(instrument: Instrument) -> _Voice:
    voices = {"Guitar": _guitar, "Piano": _two_handed}
    return voices.get(instrument.inst_class, lambda i: _close(i, 3))(instrument)


def play_comp(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """Chords in a rhythm of the instrument's family or of the style."""
    own = of_length(FAMILY_RHYTHMS.get(instrument.inst_class, ()), song.style.beats)
    rhythms = each_section(bars, lambda: choose([*own, *song.style.comps], rng))
    gate = 0.35 if instrument.program in _SHORT else float(rng.uniform(0.75, 1.0))
    spread = 0.014 * song.tempo / 60.0 if instrument.inst_class == "Guitar" else 0.004
    voice = _voice_of(instrument)
    chord: list[int] = []
    events = []
    for bar in bars:
        if bar.final:
            chord = voice(bar.chords[0], chord)
            events += hold(bar, chord, 88 * bar.intensity, 2 * spread)
            continue
        for symbol, beat, length in read_steps(rhythms[bar.section.name]):
            chord = voice(bar.chord_at(beat), chord)
            played = chord[-3:] if symbol == "o" or (beat * 2) % 2 else chord
            velocity = velocity_of(symbol, bar) - 8
            events += _strum(bar.beat + beat, length * gate, played, velocity, spread)
    return events


def _strum(
    beat: float, length: float, pitches: Sequence[int], velocity: float, spread: float
) -> list[Event]:
    """A chord, string after string; downwards on the beat, upwards off it."""
    order = sorted(pitches, reverse=bool((beat * 2) % 2))
    return [
        Event(beat + i * spread, max(0.1, length - i * spread), pitch, velocity - 1.5 * i)
        for i, pitch in enumerate(order)
    ]


def play_arp(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """The chord's tones one after another, each left to sound for a while."""
    figures = each_section(bars, lambda: choose(of_length(ARPEGGIOS, song.style.beats), rng))
    ring = float(choose((1.0, 1.0, 2.0, 3.0), rng))
    base = max(instrument.low, min(instrument.center - 7, 62))
    events = []
    for bar in bars:
        if bar.final:
            tones = pitches_of(bar.chords[0].tones, base, instrument.high)[:4]
            events += hold(bar, tones, 84 * bar.intensity, 0.12)
            continue
        for symbol, beat, length in read_steps(figures[bar.section.name]):
            tones = pitches_of(bar.chord_at(beat).tones, base, instrument.high)
            pitch = tones[min(int(symbol), len(tones) - 1)]
            velocity = velocity_of("X" if beat == 0 else "x", bar) - 10
            events.append(Event(bar.beat + beat, length * ring, pitch, velocity))
    return events


def play_pad(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """Long chords; a voice that need not move is held over from chord to chord."""
    voice = _close(instrument, int(rng.integers(3, 5)))
    tie = 1.5 * song.style.beats if rng.random() < 0.6 else 0.0
    events: list[Event] = []
    sounding: dict[int, Event] = {}
    chord: list[int] = []
    for bar in bars:
        share = bar.beats / len(bar.chords)
        for place, wanted in enumerate(bar.chords):
            beat = bar.beat + place * share
            chord = voice(wanted, chord)
            new = {p: Event(beat, share * 0.98, p, 80 * bar.intensity) for p in chord}
            for pitch, old in sounding.items():
                joins = pitch in new and beat - old.beat - old.length < 0.2
                if joins and old.length < tie:
                    length = beat + share * 0.98 - old.beat
                    new[pitch] = Event(old.beat, length, pitch, old.velocity)
                else:
                    events.append(old)
            sounding = new
    return events + list(sounding.values())


def play_stab(
    bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
) -> list[Event]:
    """Short chords of a section in the gaps of the bar."""
    rhythms = each_section(bars, lambda: choose(of_length(STABS, song.style.beats), rng))
    voice = _close(instrument, 1 if instrument.program in _SOLE else 3)
    chord: list[int] = []
    events = []
    for bar in bars:
        if bar.final:
            events += hold(bar, voice(bar.chords[0], chord), 92 * bar.intensity)
            continue
        for symbol, beat, length in read_steps(rhythms[bar.section.name]):
            chord = voice(bar.chord_at(beat), chord)
            velocity = velocity_of(symbol, bar)
            events += _strum(bar.beat + beat, length * 0.85, chord, velocity, 0.0)
    return events
