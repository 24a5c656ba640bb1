"""Who plays a song: 4 to 8 instruments of Slakh's classes, and the role of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .grid import choose
from .instruments import drum_kit, pitched_instruments
from .score import Instrument
from .styles import Style

CORE = ("Drums", "Bass", "Guitar", "Piano")
CORE_SHARE = 0.86  # share of songs that have each of them
HARMONY = ("Organ", "Strings (continued)", "Synth Pad", "Chromatic Percussion")
EXTRAS = {
    "Strings (continued)": 1.3,
    "Organ": 1.1,
    "Synth Pad": 1.0,
    "Brass": 1.1,
    "Reed": 1.2,
    "Pipe": 1.0,
    "Synth Lead": 0.9,
    "Chromatic Percussion": 1.1,
    "Strings": 1.1,
    "Guitar": 0.8,  # a second one
    "Piano": 0.5,  # a second one
    "Ethnic": 0.6,
    "Percussive": 0.4,
    "Sound Effects": 0.3,
}  # weights of what may join the core
EXTRA_SHARES = (0.05, 0.20, 0.35, 0.25, 0.15)  # of songs with 0, 1, ... 4 extras
FEWEST, MOST = 4, 8  # stems a song
USUAL = 5.0  # how much likelier an instrument is in the styles that it belongs to
CHORDS = ("comp", "arp", "pad")
LIMITS = {"comp": 2, "arp": 2, "pad": 2, "stab": 1, "hits": 1, "lead": 1, "counter": 8}
LEVELS = {
    "drums": 0.0,
    "bass": -1.0,
    "lead": 0.0,
    "comp": -4.0,
    "stab": -4.0,
    "counter": -5.0,
    "arp": -6.0,
    "pad": -7.0,
    "hits": -8.0,
}  # mean loudness of a role, dB against the drums


def draw_instruments(style: Style, rng: np.random.Generator) -> list[Instrument]:
    """The instruments of one song, no program twice."""
    classes = [name for name in CORE if rng.random() < CORE_SHARE]
    extras = int(rng.choice(len(EXTRA_SHARES), p=EXTRA_SHARES))
    total = min(max(len(classes) + extras, FEWEST), MOST)
    if "Guitar" not in classes and "Piano" not in classes:
        classes.append(choose(HARMONY, rng))
    classes += _draw_extras(classes, max(0, total - len(classes)), rng)
    chosen: list[Instrument] = []
    for name in classes:
        chosen.append(_draw_instrument(name, style, chosen, rng))
    return chosen


def draw_core(style: Style, rng: np.random.Generator) -> list[Instrument]:
    """Bass, drums, guitar and piano alone."""
    chosen: list[Instrument] = []
    for name in CORE:
        chosen.append(_draw_instrument(name, style, chosen, rng))
    return chosen


def _draw_extras(present: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` classes that join; a guitar or a piano joins only another of its kind."""
    missing = [name for name in CORE if name not in present]
    names = [name for name in EXTRAS if name not in missing]
    names = [name for name in names if name in CORE or name not in present]
    weights = np.array([EXTRAS[name] for name in names])
    picks = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    return [names[pick] for pick in picks]


def _draw_instrument(
    name: str, style: Style, taken: Sequence[Instrument], rng: np.random.Generator
) -> Instrument:
    """An instrument of class `name`, most likely one that is usual in the style."""
    if name == "Drums":
        return drum_kit(choose(style.kits, rng))
    programs = [instrument.program for instrument in taken]
    options = [i for i in pitched_instruments() if i.inst_class == name]
    options = [i for i in options if i.program not in programs]
    weights = np.array([USUAL if i.program in style.usual else 1.0 for i in options])
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


def assign_roles(instruments: Sequence[Instrument], rng: np.random.Generator) -> list[str]:
    """A role for each instrument: first someone for the chords, then one for the melody."""
    roles = ["drums" if i.is_drum else "bass" if "bass" in i.roles else "" for i in instruments]
    for wanted in (CHORDS, ("lead",)):
        able = [
            place
            for place, instrument in enumerate(instruments)
            if not roles[place] and any(role in wanted for role in instrument.roles)
        ]
        if able:
            place = choose(able, rng)
            roles[place] = choose([r for r in instruments[place].roles if r in wanted], rng)
    for place, instrument in enumerate(instruments):
        free = [role for role in instrument.roles if roles.count(role) < LIMITS.get(role, 1)]
        roles[place] = roles[place] or choose(free or ["counter"], rng)
    return roles


def draw_level(role: str, rng: np.random.Generator) -> float:
    """Loudness of a part in its song, dB: the mean of its role and a spread of its own."""
    return LEVELS[role] + float(np.clip(rng.normal(0.0, 4.0), -8.0, 8.0))
