"""A song by rule: key, tempo, sections and chords, then a part for each instrument."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .chords import play_arp, play_comp, play_pad, play_stab
from .instruments import assign_roles, draw_core, draw_instruments, draw_level
from .melody import play_counter, play_lead
from .rhythm import play_bass, play_drums, play_hits
from .score import Instrument, Note, Part, Score, Section
from .styles import Bar, Event, Song, Style, all_styles, choose
from .theory import NAMES, Chord, diatonic_chord, draw_progressions, read_progression

_LIFT_SHARE = 0.15  # share of songs whose last chorus is a whole tone higher
_SHORTEST = 0.04  # seconds; a note that another one of its pitch cuts shorter than this is dropped
_ENSEMBLE_STREAM = 2  # of a song's randomness: whether it has the four core instruments alone
_END = 0.15  # seconds before the end of the song at which the last notes are let go


_Player = Callable[[Sequence[Bar], Song, Instrument, np.random.Generator], list[Event]]
_PLAYERS: dict[str, _Player] = {
    "drums": play_drums,
    "bass": play_bass,
    "comp": play_comp,
    "arp": play_arp,
    "pad": play_pad,
    "stab": play_stab,
    "hits": play_hits,
    "lead": play_lead,
    "counter": play_counter,
}  # by role: each writes one part's events for the bars in which it plays


def compose_song(seed: int, index: int, seconds: float, core: float = 0.0) -> Score:
    """The song number `index` of a corpus; it depends on these numbers only.

    A share `core` of the songs has bass, drums, guitar and piano alone.
    """
    rng = np.random.default_rng([seed, index])
    song = _plan_song(seconds, rng)
    core_only = np.random.default_rng([seed, index, _ENSEMBLE_STREAM]).random() < core
    instruments = (draw_core if core_only else draw_instruments)(song.style, rng)
    roles = assign_roles(instruments, rng)
    activity = _draw_activity(roles, song.sections, rng)
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
    count = _count_bars(seconds, float(rng.uniform(*style.tempo)), style.beats)
    sections = _plan_sections(count, rng)
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
    lift = 2 if last_chorus > 2 and rng.random() < _LIFT_SHARE else 0
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
    events = _PLAYERS[role](playing, song, instrument, rng)
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
        notes.append(Note(start, min(end, seconds - _END), event.pitch, velocity))
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
        if end - note.start >= _SHORTEST:
            following[note.pitch] = note.start
            kept.append(Note(note.start, end, note.pitch, note.velocity))
    return tuple(reversed(kept))


_WEIGHTS = {"intro": 0.5, "verse": 1.0, "chorus": 1.0, "bridge": 0.6, "outro": 0.5}
_PLANS = (
    (36, ("intro verse chorus verse chorus bridge chorus outro",)),
    (
        16,
        (
            "intro verse chorus verse chorus outro",
            "intro verse chorus bridge chorus outro",
            "verse chorus verse bridge chorus outro",
        ),
    ),
    (6, ("intro verse chorus outro", "verse chorus bridge outro", "intro verse bridge chorus")),
    (4, ("verse chorus outro", "intro verse chorus")),
    (1, ("verse chorus",)),
)  # (fewest bars, plans to choose from)
# How often a role plays in a section. Drawn for each part and section, see `_draw_activity`.
_PRESENCE = {
    "drums": {"intro": 0.4, "verse": 0.9, "chorus": 1.0, "bridge": 0.55, "outro": 0.7},
    "bass": {"intro": 0.45, "verse": 0.9, "chorus": 1.0, "bridge": 0.65, "outro": 0.8},
    "comp": {"intro": 0.6, "verse": 0.8, "chorus": 0.95, "bridge": 0.55, "outro": 0.7},
    "arp": {"intro": 0.6, "verse": 0.55, "chorus": 0.85, "bridge": 0.7, "outro": 0.55},
    "pad": {"intro": 0.5, "verse": 0.4, "chorus": 0.95, "bridge": 0.8, "outro": 0.7},
    "stab": {"intro": 0.2, "verse": 0.3, "chorus": 0.95, "bridge": 0.4, "outro": 0.4},
    "hits": {"intro": 0.4, "verse": 0.5, "chorus": 0.9, "bridge": 0.5, "outro": 0.3},
    "lead": {"intro": 0.25, "verse": 0.85, "chorus": 0.9, "bridge": 0.4, "outro": 0.35},
    "counter": {"intro": 0.2, "verse": 0.4, "chorus": 0.85, "bridge": 0.6, "outro": 0.4},
}
_LEAST = 0.4  # share of the bars; a part that plays less also plays in the choruses
_JOIN = 0.3  # how often a part that rested in a section plays when the section returns


def _count_bars(seconds: float, tempo: float, beats: int) -> int:
    """Bars in a song of `seconds` at about `tempo` beats per minute, never fewer than two."""
    return max(2, round(seconds * tempo / 60.0 / beats))


def _share_bars(weights: Sequence[float], total: int) -> list[int]:
    """Split `total` by weight, at least one each; largest remainders get what is left over."""
    spare = total - len(weights)
    exact = [weight / sum(weights) * spare for weight in weights]
    shares = [1 + int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: (int(exact[i]) - exact[i], i))
    for place in order[: total - sum(shares)]:
        shares[place] += 1
    return shares


def _plan_sections(total: int, rng: np.random.Generator) -> tuple[Section, ...]:
    """Sections that fill `total` bars; of an even number of bars each where there is room."""
    plans = next(plans for fewest, plans in _PLANS if total >= fewest)
    names = plans[int(rng.integers(len(plans)))].split()
    unit = 2 if total >= 2 * len(names) else 1
    shares = _share_bars([_WEIGHTS[name] for name in names], total // unit)
    shares = [share * unit for share in shares]
    shares[-1] += total - sum(shares)
    starts = np.cumsum([0, *shares]).tolist()
    return tuple(map(Section, names, starts, shares))


def _draw_activity(
    roles: Sequence[str], sections: Sequence[Section], rng: np.random.Generator
) -> list[list[bool]]:
    """Which part plays in which section: one row per part, one column per section.

    A section that returns keeps its _players and may gain some. A part that would hardly play joins
    the choruses, so every part plays somewhere, and every section has two parts at least.
    """
    rows = [_draw_row(role, sections, rng) for role in roles]
    total = sum(section.bars for section in sections)
    for row in rows:
        played = sum(section.bars for section, plays in zip(sections, row, strict=True) if plays)
        for place, section in enumerate(sections):
            joins = section.name == "chorus" and played < _LEAST * total
            row[place] = row[place] or joins
    for place in range(len(sections)):
        resting = [row for row in rows if not row[place]]
        for _ in range(2 - sum(row[place] for row in rows)):
            resting.pop(int(rng.integers(len(resting))))[place] = True
    return rows


def _draw_row(role: str, sections: Sequence[Section], rng: np.random.Generator) -> list[bool]:
    """In which sections one part plays."""
    seen: dict[str, bool] = {}
    row = []
    for section in sections:
        chance = _JOIN if section.name in seen else _PRESENCE[role][section.name]
        seen[section.name] = seen.get(section.name, False) or bool(rng.random() < chance)
        row.append(seen[section.name])
    return row
