"""Scales, chords, progressions and voice leading. Pitch classes are 0 (C) to 11 (B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Scale degrees, one word per bar; "2/5" shares a bar between two chords.
_PROGRESSIONS = {
    "major": {
        "verse": ("1 5 6 4", "1 6 4 5", "1 4 1 5", "1 3 4 5", "6 4 1 5", "1 2 4 5", "1 4 6 5"),
        "chorus": ("4 5 1 6", "1 5 6 4", "6 4 1 5", "4 1 5 6", "1 4/5 6 4/5", "1 3 6 4"),
        "bridge": ("4 4 1 1", "6 3 4 5", "2 5 3 6", "4 5 6 5", "2 4 6 5"),
    },
    "minor": {
        "verse": ("1 6 3 7", "1 7 6 7", "1 4 5 1", "1 6 4 5", "1 4 1 5", "1 3 7 4"),
        "chorus": ("6 7 1 1", "4 7 3 6", "1 6 3 7", "6 4 1 5", "1 4 7 3", "6 3 7 1"),
        "bridge": ("4 4 1 1", "6 6 7 7", "3 7 6 5", "4 6 7 5"),
    },
    "dorian": {
        "verse": ("1 4 1 4", "1 1 4 4", "1 7 4 1", "1 3 4 1"),
        "chorus": ("4 1 7 1", "3 7 4 1", "1 4 7 4"),
        "bridge": ("7 7 1 1", "3 4 3 4", "4 4 7 7"),
    },
    "mixolydian": {
        "verse": ("1 7 4 1", "1 4 7 4", "1 1 7 4", "1 1 4 1"),
        "chorus": ("1 7 4 4", "4 1 7 1", "7 4 1 1", "1 5 4 7"),
        "bridge": ("4 4 1 1", "7 7 4 4", "6 7 4 4"),
    },
}
_JAZZ_PROGRESSIONS = {
    "major": {
        "verse": ("2 5 1 1", "1 6 2 5", "1 4 3/6 2/5", "1/6 2/5 3/6 2/5"),
        "chorus": ("3 6 2 5", "4 4 3/6 2/5", "2/5 1/6 2/5 1"),
        "bridge": ("4 4 1 1", "6 2 5 5", "3 3 6 6"),
    },
    "minor": {
        "verse": ("2 5 1 1", "1 4 2 5", "1/6 2/5 1 5", "1 1 4 4"),
        "chorus": ("4 7 3 6", "4 7 3/6 2/5", "6 5 1 1"),
        "bridge": ("4 4 1 1", "6 6 2 5", "3 6 2 5"),
    },
}


@dataclass(frozen=True)
class Chord:
    root: int  # pitch class
    tones: tuple[int, ...]  # pitch classes, root first, in thirds
    scale: tuple[int, ...]  # the seven pitch classes around it


def diatonic_chord(tonic: int, mode: str, degree: int, size: int) -> Chord:
    """Stack `size` thirds on a degree (1 to 7); the fifth of a minor key gets its leading tone."""
    scale = [(tonic + step) % 12 for step in _MODES[mode]]
    if mode == "minor" and degree == 5:
        scale[6] = (tonic + 11) % 12
    tones = tuple(scale[(degree - 1 + 2 * i) % 7] for i in range(size))
    return Chord(tones[0], tones, tuple(scale))


def read_progression(text: str, tonic: int, mode: str, size: int) -> list[tuple[Chord, ...]]:
    """Chords of each bar of a progression such as "1 4/5 6 4"."""
    return [
        tuple(diatonic_chord(tonic, mode, int(degree), size) for degree in word.split("/"))
        for word in text.split()
    ]


def draw_progressions(mode: str, jazz: bool, rng: np.random.Generator) -> dict[str, str]:
    """One per kind of section; the intro borrows the verse's, the outro the chorus's."""
    table = _JAZZ_PROGRESSIONS[mode] if jazz else _PROGRESSIONS[mode]
    drawn = {name: str(rng.choice(table[name])) for name in ("verse", "chorus", "bridge")}
    return {**drawn, "intro": drawn["verse"], "outro": drawn["chorus"]}


def pitches_of(classes: Sequence[int], low: int, high: int) -> list[int]:
    """Every MIDI pitch from `low` to `high` whose pitch class is in `classes`, rising."""
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in classes]


def nearest(pitches: Sequence[int], target: float) -> int:
    """The pitch nearest to `target`, the lower of two."""
    return min(pitches, key=lambda pitch: (abs(pitch - target), pitch))


def step_in(scale: Sequence[int], pitch: int, steps: int) -> int:
    """Move `pitch` by `steps` within the pitch classes of `scale`."""
    pitches = pitches_of(scale, pitch - 24, pitch + 24)
    start = pitches.index(nearest(pitches, pitch))
    return pitches[start + steps]


def lead_voices(previous: Sequence[int], chord: Chord, low: int, high: int) -> list[int]:
    """Each voice moves to the nearest chord tone that is free; range is kept, doublings avoided."""
    free = pitches_of(chord.tones, low, high)
    voices: list[int] = []
    for pitch in previous:
        missing = [p for p in free if p % 12 not in {v % 12 for v in voices}]
        voices.append(nearest(missing or free, pitch))
        free.remove(voices[-1])
    return sorted(voices)


def close_voicing(chord: Chord, voices: int, center: int) -> list[int]:
    """`voices` neighbouring chord tones around `center`."""
    pitches = pitches_of(chord.tones, center - 12, center + 12)
    middle = pitches.index(nearest(pitches, center))
    first = max(0, min(middle - voices // 2, len(pitches) - voices))
    return pitches[first : first + voices]
