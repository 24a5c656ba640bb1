"""What a composed song is: parts of notes in seconds, played by General MIDI instruments."""

from __future__ import annotations

from dataclasses import dataclass

DRUMS = 128  # Slakh's program_num of every drum kit
DRUM_CHANNEL = 9  # 0-based MIDI channel of drum kits
CLASSES = (
    (8, "Piano"),
    (16, "Chromatic Percussion"),
    (24, "Organ"),
    (32, "Guitar"),
    (40, "Bass"),
    (48, "Strings"),
    (56, "Strings (continued)"),
    (64, "Brass"),
    (72, "Reed"),
    (80, "Pipe"),
    (88, "Synth Lead"),
    (96, "Synth Pad"),
    (104, "Sound Effects"),
    (112, "Ethnic"),
    (119, "Percussive"),
    (128, "Sound effects"),
    (129, "Drums"),
)  # (first program after the class, inst_class), as Slakh2100 spells them


def inst_class(program: int) -> str:
    """Slakh's `inst_class` of a 0-based General MIDI program; drums are 128."""
    for end, name in CLASSES:
        if 0 <= program < end:
            return name
    raise ValueError(f"program {program}: a program is 0 to {DRUMS} (drums)")


@dataclass(frozen=True)
class Instrument:
    program: int  # 0-based General MIDI program, 128 for drums
    preset: int  # preset of the soundfont: the program, or the number of the drum kit
    name: str  # General MIDI name
    low: int  # lowest MIDI pitch it plays here
    high: int  # highest MIDI pitch it plays here
    roles: tuple[str, ...]  # what it may play; a role written twice is twice as likely

    @property
    def inst_class(self) -> str:
        return inst_class(self.program)

    @property
    def is_drum(self) -> bool:
        return self.program == DRUMS

    @property
    def center(self) -> int:
        return (self.low + self.high) // 2


@dataclass(frozen=True)
class Note:
    start: float  # seconds
    end: float  # seconds
    pitch: int  # MIDI
    velocity: int  # 1 to 127


@dataclass(frozen=True)
class Section:
    name: str  # intro, verse, chorus, bridge or outro
    first_bar: int
    bars: int


@dataclass(frozen=True)
class Part:
    instrument: Instrument
    role: str  # drums, bass, comp, arp, pad, stab, hits, lead or counter
    level: float  # loudness against the song's other parts, dB
    notes: tuple[Note, ...]  # by start


@dataclass(frozen=True)
class Score:
    seconds: float
    tempo: float  # beats a minute
    beats: int  # beats a bar
    style: str
    key: str  # such as "A minor"
    sections: tuple[Section, ...]
    parts: tuple[Part, ...]

    def bar_seconds(self) -> float:
        return self.beats * 60.0 / self.tempo
