"""The General MIDI instruments of the corpus, and which 4 to 8 of them play a song."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .score import DRUMS, Instrument
from .styles import Style, choose

# Program, name, lowest and highest pitch, roles. The soundfont has no sound for the alto sax at
# pitch 64 and for the whistle above 78, so their ranges stop there.
_PITCHED = (
    (0, "Acoustic Grand Piano", 36, 88, "comp comp comp arp lead"),
    (1, "Bright Acoustic Piano", 36, 88, "comp comp arp lead"),
    (2, "Electric Grand Piano", 36, 84, "comp comp arp"),
    (3, "Honky-tonk Piano", 36, 84, "comp comp lead"),
    (4, "Electric Piano 1", 40, 84, "comp comp pad arp"),
    (5, "Electric Piano 2", 40, 84, "comp comp pad arp lead"),
    (6, "Harpsichord", 41, 84, "arp arp comp lead"),
    (7, "Clavinet", 41, 79, "comp"),
    (8, "Celesta", 60, 96, "arp lead counter"),
    (9, "Glockenspiel", 72, 96, "lead counter arp"),
    (10, "Music Box", 60, 96, "arp arp lead"),
    (11, "Vibraphone", 53, 89, "comp arp lead pad"),
    (12, "Marimba", 48, 84, "arp arp lead comp"),
    (13, "Xylophone", 65, 96, "lead arp counter"),
    (14, "Tubular Bells", 48, 77, "counter"),
    (15, "Dulcimer", 48, 84, "arp lead comp"),
    (16, "Drawbar Organ", 48, 84, "pad comp comp"),
    (17, "Percussive Organ", 48, 84, "comp comp lead"),
    (18, "Rock Organ", 48, 84, "comp comp pad lead"),
    (19, "Church Organ", 43, 79, "pad"),
    (20, "Reed Organ", 48, 79, "pad comp"),
    (21, "Accordion", 53, 84, "comp lead pad"),
    (22, "Harmonica", 60, 84, "lead lead counter"),
    (23, "Tango Accordion", 53, 84, "lead comp"),
    (24, "Acoustic Guitar (nylon)", 40, 81, "arp arp comp lead"),
    (25, "Acoustic Guitar (steel)", 40, 79, "comp comp comp arp"),
    (26, "Electric Guitar (jazz)", 40, 81, "comp comp lead"),
    (27, "Electric Guitar (clean)", 40, 81, "comp comp arp"),
    (28, "Electric Guitar (muted)", 40, 76, "arp comp"),
    (29, "Overdriven Guitar", 40, 84, "comp comp lead"),
    (30, "Distortion Guitar", 40, 84, "comp comp lead"),
    (31, "Guitar Harmonics", 52, 84, "arp counter"),
    (32, "Acoustic Bass", 28, 50, "bass"),
    (33, "Electric Bass (finger)", 28, 52, "bass"),
    (34, "Electric Bass (pick)", 28, 52, "bass"),
    (35, "Fretless Bass", 28, 52, "bass"),
    (36, "Slap Bass 1", 28, 52, "bass"),
    (37, "Slap Bass 2", 28, 52, "bass"),
    (38, "Synth Bass 1", 28, 50, "bass"),
    (39, "Synth Bass 2", 28, 50, "bass"),
    (40, "Violin", 55, 91, "lead lead counter"),
    (41, "Viola", 48, 79, "counter lead"),
    (42, "Cello", 38, 72, "counter lead"),
    (43, "Contrabass", 31, 55, "counter"),
    (44, "Tremolo Strings", 43, 84, "pad"),
    (45, "Pizzicato Strings", 43, 79, "arp arp comp"),
    (46, "Orchestral Harp", 40, 91, "arp"),
    (47, "Timpani", 40, 57, "hits"),
    (48, "String Ensemble 1", 43, 84, "pad pad counter"),
    (49, "String Ensemble 2", 43, 84, "pad"),
    (50, "Synth Strings 1", 43, 84, "pad"),
    (51, "Synth Strings 2", 43, 84, "pad"),
    (52, "Choir Aahs", 48, 79, "pad"),
    (53, "Voice Oohs", 48, 79, "pad counter"),
    (54, "Synth Choir", 48, 79, "pad"),
    (55, "Orchestra Hit", 48, 67, "stab"),
    (56, "Trumpet", 55, 82, "lead lead counter stab"),
    (57, "Trombone", 41, 70, "counter stab lead"),
    (58, "Tuba", 29, 53, "counter"),
    (59, "Muted Trumpet", 55, 82, "lead counter"),
    (60, "French Horn", 43, 74, "counter pad"),
    (61, "Brass Section", 48, 79, "stab"),
    (62, "Synth Brass 1", 48, 79, "stab stab pad"),
    (63, "Synth Brass 2", 48, 79, "stab pad lead"),
    (64, "Soprano Sax", 58, 84, "lead counter"),
    (65, "Alto Sax", 65, 84, "lead lead counter"),
    (66, "Tenor Sax", 46, 75, "lead lead counter"),
    (67, "Baritone Sax", 38, 67, "counter lead stab"),
    (68, "Oboe", 58, 86, "lead counter"),
    (69, "English Horn", 52, 80, "lead counter"),
    (70, "Bassoon", 37, 67, "counter"),
    (71, "Clarinet", 52, 86, "lead counter"),
    (72, "Piccolo", 72, 96, "lead counter"),
    (73, "Flute", 60, 91, "lead lead counter"),
    (74, "Recorder", 62, 88, "lead counter"),
    (75, "Pan Flute", 60, 86, "lead counter"),
    (76, "Blown bottle", 55, 82, "counter lead"),
    (77, "Shakuhachi", 57, 84, "lead counter"),
    (78, "Whistle", 60, 78, "lead"),
    (79, "Ocarina", 60, 84, "lead counter"),
    (80, "Lead 1 (square)", 48, 88, "lead lead arp"),
    (81, "Lead 2 (sawtooth)", 48, 88, "lead lead arp"),
    (82, "Lead 3 (calliope)", 55, 88, "lead counter"),
    (83, "Lead 4 chiff", 55, 86, "lead arp"),
    (84, "Lead 5 (charang)", 50, 84, "lead"),
    (85, "Lead 6 (voice)", 53, 84, "lead counter"),
    (86, "Lead 7 (fifths)", 48, 79, "lead arp"),
    (87, "Lead 8 (bass + lead)", 48, 79, "lead arp"),
    (88, "Pad 1 (new age)", 48, 84, "pad arp"),
    (89, "Pad 2 (warm)", 48, 84, "pad"),
    (90, "Pad 3 (polysynth)", 48, 84, "pad comp"),
    (91, "Pad 4 (choir)", 48, 79, "pad"),
    (92, "Pad 5 (bowed)", 48, 79, "pad"),
    (93, "Pad 6 (metallic)", 48, 79, "pad"),
    (94, "Pad 7 (halo)", 48, 79, "pad"),
    (95, "Pad 8 (sweep)", 48, 79, "pad"),
    (96, "FX 1 (rain)", 48, 84, "arp pad"),
    (98, "FX 3 (crystal)", 53, 88, "arp"),
    (99, "FX 4 (atmosphere)", 48, 79, "pad arp"),
    (100, "FX 5 (brightness)", 48, 79, "pad arp"),
    (102, "FX 7 (echoes)", 48, 79, "pad"),
    (103, "FX 8 (sci-fi)", 48, 79, "pad"),
    (104, "Sitar", 48, 79, "lead arp"),
    (105, "Banjo", 48, 81, "arp arp comp"),
    (106, "Shamisen", 50, 81, "lead arp"),
    (107, "Koto", 50, 84, "arp lead"),
    (108, "Kalimba", 55, 86, "arp arp counter"),
    (109, "Bagpipe", 58, 79, "lead"),
    (110, "Fiddle", 55, 86, "lead lead counter"),
    (111, "Shanai", 58, 82, "lead"),
    (112, "Tinkle Bell", 65, 91, "counter arp"),
    (113, "Agogo", 65, 84, "hits"),
    (114, "Steel Drums", 55, 86, "lead arp comp"),
    (115, "Woodblock", 60, 79, "hits"),
    (116, "Taiko Drum", 40, 60, "hits"),
    (117, "Melodic Tom", 40, 64, "hits"),
    (118, "Synth Drum", 40, 64, "hits"),
)


def pitched_instruments() -> tuple[Instrument, ...]:
    """Every instrument but the drum kits."""
    return tuple(
        Instrument(program, program, name, low, high, tuple(roles.split()))
        for program, name, low, high, roles in _PITCHED
    )


def _drum_kit(preset: int) -> Instrument:
    """The drum kit at `preset` of the soundfont's percussion bank."""
    return Instrument(DRUMS, preset, "Drums", 27, 87, ("drums",))


_CORE = ("Drums", "Bass", "Guitar", "Piano")
_CORE_SHARE = 0.86  # share of songs that have each of them
_HARMONY = ("Organ", "Strings (continued)", "Synth Pad", "Chromatic Percussion")
_EXTRAS = {
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
_EXTRA_SHARES = (0.05, 0.20, 0.35, 0.25, 0.15)  # of songs with 0, 1, ... 4 extras
FEWEST, MOST = 4, 8  # stems per song
_USUAL = 5.0  # how much likelier an instrument is in the styles that it belongs to
_CHORDS = ("comp", "arp", "pad")
_LIMITS = {"comp": 2, "arp": 2, "pad": 2, "stab": 1, "hits": 1, "lead": 1, "counter": 8}
_LEVELS = {
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
    classes = [name for name in _CORE if rng.random() < _CORE_SHARE]
    extras = int(rng.choice(len(_EXTRA_SHARES), p=_EXTRA_SHARES))
    total = min(max(len(classes) + extras, FEWEST), MOST)
    if "Guitar" not in classes and "Piano" not in classes:
        classes.append(choose(_HARMONY, rng))
    classes += _draw_extras(classes, max(0, total - len(classes)), rng)
    chosen: list[Instrument] = []
    for name in classes:
        chosen.append(_draw_instrument(name, style, chosen, rng))
    return chosen


def draw_core(style: Style, rng: np.random.Generator) -> list[Instrument]:
    """Bass, drums, guitar and piano alone."""
    chosen: list[Instrument] = []
    for name in _CORE:
        chosen.append(_draw_instrument(name, style, chosen, rng))
    return chosen


def _draw_extras(present: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` classes that join; a guitar or a piano joins only another of its kind."""
    missing = [name for name in _CORE if name not in present]
    names = [name for name in _EXTRAS if name not in missing]
    names = [name for name in names if name in _CORE or name not in present]
    weights = np.array([_EXTRAS[name] for name in names])
    picks = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    return [names[pick] for pick in picks]


def _draw_instrument(
    name: str, style: Style, taken: Sequence[Instrument], rng: np.random.Generator
) -> Instrument:
    """An instrument of class `name`, most likely one that is usual in the style."""
    if name == "Drums":
        return _drum_kit(choose(style.kits, rng))
    programs = [instrument.program for instrument in taken]
    options = [i for i in pitched_instruments() if i.inst_class == name]
    options = [i for i in options if i.program not in programs]
    weights = np.array([_USUAL if i.program in style.usual else 1.0 for i in options])
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


def assign_roles(instruments: Sequence[Instrument], rng: np.random.Generator) -> list[str]:
    """A role for each instrument: first one for the chords, then one for the melody."""
    roles = ["drums" if i.is_drum else "bass" if "bass" in i.roles else "" for i in instruments]
    for wanted in (_CHORDS, ("lead",)):
        able = [
            place
            for place, instrument in enumerate(instruments)
            if not roles[place] and any(role in wanted for role in instrument.roles)
        ]
        if able:
            place = choose(able, rng)
            roles[place] = choose([r for r in instruments[place].roles if r in wanted], rng)
    for place, instrument in enumerate(instruments):
        free = [role for role in instrument.roles if roles.count(role) < _LIMITS.get(role, 1)]
        roles[place] = roles[place] or choose(free or ["counter"], rng)
    return roles


def draw_level(role: str, rng: np.random.Generator) -> float:
    """Loudness of a part in its song, dB: the mean of its role and a spread of its own."""
    return _LEVELS[role] + float(np.clip(rng.normal(0.0, 4.0), -8.0, 8.0))
