"""A song by rule: key, tempo, sections and chords, then a part for each instrument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .bass import play_bass
from .chords import play_arp, play_comp, play_pad, play_stab
from .drums import play_drums, play_hits
from .ensemble import assign_roles, draw_core, draw_instruments, draw_level
from .form import count_bars, draw_activity, plan_sections
from .grid import Bar, Event, Song, choose
from .melody import play_counter, play_lead
from .score import Instrument, Note, Part, Score, Section
from .styles import Style, all_styles
from .theory import NAMES, Chord, diatonic_chord, draw_progressions, read_progression

LIFT_SHARE = 0.15  # share of songs whose last chorus is a whole tone higher
SHORTEST = 0.04  # seconds; a note that another one of its pitch cuts shorter than this is dropped
ENSEMBLE_STREAM = 2  # of a song's randomness: whether it has the four core instruments alone
END = 0.15  # seconds before the end of the song at which the last notes are let go


class Player(Protocol):
    """Writes one part's events for the bars in which it plays."""

    def __call__(
        self, bars: Sequence[Bar], song: Song, instrument: Instrument, rng: np.random.Generator
    ) -> list[Event]: ...


def players() -> dict[str, Player]:
    """The player of each role."""
    return {
        "drums": play_drums,
        "bass": play_bass,
        "comp": play_comp,
        "arp": play_arp,
        "pad": play_pad,
        "stab": play_stab,
        "hits": play_hits,
        "lead": play_lead,
        "counter": play_counter,
    }


def compose_song(seed: int, index: int, seconds: float, core: float = 0.0) -> Score:
    """The song number `index` of a corpus; it depends on these numbers only.

    A share `core` of the songs has bass, drums, guitar and piano alone.
    """
    rng = np.random.default_rng([seed, index])
    song = _plan_song(seconds, rng)
    core_only = np.random.default_rng([seed, index, ENSEMBLE_STREAM]).random() < core
    instruments = (draw_core if core_only else draw_instruments)(song.style, rng)
    roles = assign_roles(instruments, rng)
    activity = draw_activity(roles, song.sections, rng)
    parts = [
        _write_part(song, seconds, instrument, role, active, rng)
        for instrument, role, active in zip(instruments, roles, activity, strict=True)
    ]
    order = rng.permutation(len(parts))
    return Score(
        seconds=seconds,
        tempo=song.tempo,
        beats=song.style.beats,
        style=song.style.name,
        key=song.key,
        sections=song.sections,
        parts=tuple(parts[place] for place in order),
    )


def _plan_song(seconds: float, rng: np.random.Generator) -> Song:
    """Style, tempo, key, sections and chords; the tempo makes the bars fill the song exactly."""
    style = choose(all_styles(), rng)
    mode = choose(style.modes, rng)
    tonic = int(rng.integers(12))
    count = count_bars(seconds, float(rng.uniform(*style.tempo)), style.beats)
    sections = plan_sections(count, rng)
    chords = _write_chords(sections, style, mode, tonic, rng)
    return Song(
        style=style,
        key=f"{NAMES[tonic]} {mode}",
        tempo=count * style.beats * 60.0 / seconds,
        bars=_lay_bars(sections, chords, style.beats),
        sections=sections,
    )


def _write_chords(
    sections: Sequence[Section], style: Style, mode: str, tonic: int, rng: np.random.Generator
) -> list[tuple[Chord, ...]]:
    """The chords of every bar; a section repeats its progression, the song ends at home."""
    texts = draw_progressions(mode, style.jazz, rng)
    last_chorus = max(i for i, section in enumerate(sections) if section.name == "chorus")
    lift = 2 if last_chorus > 2 and rng.random() < LIFT_SHARE else 0
    chords: list[tuple[Chord, ...]] = []
    for place, section in enumerate(sections):
        home = tonic + (lift if place >= last_chorus else 0)
        cycle = read_progression(texts[section.name], home, mode, style.chord_size)
        chords += [cycle[bar % len(cycle)] for bar in range(section.bars)]
    chords[-1] = (diatonic_chord(home, mode, 1, style.chord_size),)
    return chords


def _lay_bars(
    sections: Sequence[Section], chords: Sequence[tuple[Chord, ...]], beats: int
) -> tuple[Bar, ...]:
    """All bars of the song in order."""
    where = [(section, index) for section in sections for index in range(section.bars)]
    return tuple(
        Bar(
            beat=float(number * beats),
            beats=beats,
            section=section,
            index=index,
            chords=chords[number],
            next_root=chords[min(number + 1, len(chords) - 1)][0].root,
            final=number == len(chords) - 1,
        )
        for number, (section, index) in enumerate(where)
    )


def _write_part(
    song: Song,
    seconds: float,
    instrument: Instrument,
    role: str,
    active: Sequence[bool],
    rng: np.random.Generator,
) -> Part:
    """One instrument's part in the sections where it is active."""
    playing = [
        bar
        for section, plays in zip(song.sections, active, strict=True)
        for bar in song.bars[section.first_bar : section.first_bar + section.bars]
        if plays
    ]
    events = players()[role](playing, song, instrument, rng)
    return Part(instrument, role, draw_level(role, rng), _to_notes(events, song, seconds, rng))


def _to_notes(
    events: Sequence[Event], song: Song, seconds: float, rng: np.random.Generator
) -> tuple[Note, ...]:
    """Beats to seconds with swing and a player's inexactness in time and velocity."""
    style = song.style
    notes = []
    for event in events:
        late = style.timing * float(rng.normal())
        start = max(0.0, _swung(event.beat, style.swing) * 60.0 / song.tempo + late)
        end = _swung(event.beat + event.length, style.swing) * 60.0 / song.tempo + late
        velocity = int(np.clip(event.velocity + 4.0 * rng.normal(), 20, 127))
        notes.append(Note(start, min(end, seconds - END), event.pitch, velocity))
    return _separate(notes)


def _swung(beat: float, swing: float) -> float:
    """Move the offbeat eighth from the middle of its beat to `swing`, all else in proportion."""
    whole, part = divmod(beat, 1.0)
    if part < 0.5:
        return whole + 2.0 * part * swing
    return whole + swing + (2.0 * part - 1.0) * (1.0 - swing)


def _separate(notes: Sequence[Note]) -> tuple[Note, ...]:
    """Notes by start; one that still sounds when its pitch is played again ends there."""
    by_time = sorted(notes, key=lambda note: (note.start, note.pitch))
    following: dict[int, float] = {}
    kept = []
    for note in reversed(by_time):
        end = min(note.end, following.get(note.pitch, note.end))
        if end - note.start >= SHORTEST:
            following[note.pitch] = note.start
            kept.append(Note(note.start, end, note.pitch, note.velocity))
    return tuple(reversed(kept))
