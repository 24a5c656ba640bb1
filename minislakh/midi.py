"""Standard MIDI files of a score: one part, or all of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .score import DRUM_CHANNEL, Part, Score

if TYPE_CHECKING:
    import mido

TICKS = 960  # a beat
CHANNELS = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)


def midi_bytes(score: Score, parts: Sequence[Part]) -> bytes:
    """A type 1 file: a track of tempo, meter and section markers, then a track a part."""
    import mido

    tempo = round(60e6 / score.tempo)  # microseconds a beat
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    file.tracks.append(_conductor(score, tempo))
    for place, part in enumerate(parts):
        channel = DRUM_CHANNEL if part.instrument.is_drum else CHANNELS[place]
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
        tick = section.first_bar * score.beats * TICKS
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
        start, end = (round(t * 1e6 * TICKS / tempo) for t in (note.start, note.end))
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
