"""A composed song, parts of notes in seconds for General MIDI instruments, and its MIDI file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mido

DRUMS = 128  # Slakh's program_num of every drum kit
DRUM_CHANNEL = 9  # 0-based MIDI channel of drum kits
_CLASSES = (
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
    for end, name in _CLASSES:
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
    tempo: float  # beats per minute
    beats: int  # beats per bar
    style: str
    key: str  # such as "A minor"
    sections: tuple[Section, ...]
    parts: tuple[Part, ...]

    def bar_seconds(self) -> float:
        return self.beats * 60.0 / self.tempo


_TICKS = 960  # per beat
_CHANNELS = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)


def midi_bytes(score: Score, parts: Sequence[Part]) -> bytes:
    """A type 1 file: a track of tempo, meter and section markers, then a track per part."""
    import mido

    tempo = round(60e6 / score.tempo)  # microseconds per beat
    file = mido.MidiFile(type=1, ticks_per_beat=_TICKS)
    file.tracks.append(_conductor(score, tempo))
    for place, part in enumerate(parts):
        channel = DRUM_CHANNEL if part.instrument.is_drum else _CHANNELS[place]
        file.tracks.append(_part_track(part, channel, tempo))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _conductor(score: Score, tempo: int) -> mido.MidiTrack:
    from mido import MetaMessage

    timed = [
        (0, MetaMessage("set_tempo", tempo=tempo)),
        (0, MetaMessage("time_signature", numerator=score.beats, denominator=4)),
    ]
    for section in score.sections:
        tick = section.first_bar * score.beats * _TICKS
        timed.append((tick, MetaMessage("marker", text=section.name)))
    return _track(timed)


def _part_track(part: Part, channel: int, tempo: int) -> mido.MidiTrack:
    """Name, program, and the notes; a release comes before a stroke of the same tick."""
    from mido import Message, MetaMessage

    instrument = part.instrument
    timed = [
        (0, MetaMessage("track_name", name=instrument.name)),
        (0, Message("program_change", channel=channel, program=instrument.preset)),
    ]
    strokes = []
    for note in part.notes:
        start, end = (round(t * 1e6 * _TICKS / tempo) for t in (note.start, note.end))
        strokes.append((start, 1, note.pitch, note.velocity))
        strokes.append((max(end, start + 1), 0, note.pitch, 0))
    for tick, on, pitch, velocity in sorted(strokes):
        kind = "note_on" if on else "note_off"
        timed.append((tick, Message(kind, channel=channel, note=pitch, velocity=velocity)))
    return _track(timed)


def _track(timed: Sequence[tuple[int, mido.Message]]) -> mido.MidiTrack:
    """Give each message its ticks since the one before; it comes with ticks from the start."""
    from mido import MidiTrack

    track, now = MidiTrack(), 0
    for tick, message in timed:
        message.time = tick - now
        track.append(message)
        now = tick
    return track
