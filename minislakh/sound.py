"""From parts to levelled audio: the synthesizer, loudness by ITU-R BS.1770-4, effects.

Parts are played by tinysoundfont, by default with the soundfont that pretty_midi includes; no sound
card is needed. Loudness is K-weighted, in blocks, with two gates. Effects are what a stem passes
through on its way to a mix: equalizer, drive and reverb.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .score import DRUM_CHANNEL, Note, Part

_SOUNDFONT = "TimGM6mb.sf2"
SAMPLE_RATE = 44100  # Hz
_NEEDED = ("tinysoundfont", "pretty_midi", "mido")
_PERCUSSION_BANK = 128
_GAIN = -10.0  # dB, keeps full chords below full scale
_FADE = 0.1  # seconds at the end of the song in which what still sounds fades
_DRAIN = 4096  # samples that let the synthesizer's voices die after a part


class _MissingDependency(ImportError):
    """A package that only MiniSlakh needs is not installed."""


def require_packages() -> None:
    """Raise one sentence with the pip commands when a package is missing; imports nothing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise _MissingDependency(
            f"MiniSlakh needs {', '.join(missing)}: run pip install 'mge-plugin[minislakh]' "
            "and pip install --no-deps tinysoundfont"
        )


def find_soundfont() -> Path:
    """The soundfont inside pretty_midi's folder; found without importing pretty_midi."""
    spec = importlib.util.find_spec("pretty_midi")
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [Path(folder) / _SOUNDFONT for folder in folders or ()]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"pretty_midi's {_SOUNDFONT} is not in {paths}; reinstall pretty_midi")


@lru_cache(maxsize=4)
def open_soundfont(path: Path) -> Renderer:
    """One renderer per file and process: large soundfonts take seconds to load."""
    return Renderer(path)


class Renderer:
    """Renders parts with one soundfont. A part starts from silence, whatever was played before."""

    def __init__(self, path: Path) -> None:
        import tinysoundfont

        self.synth: Any = tinysoundfont.Synth(gain=_GAIN, samplerate=SAMPLE_RATE)
        self.soundfont = self.synth.sfload(str(path))

    def render(self, part: Part, samples: int) -> np.ndarray:
        """Mono float32 audio of one part, (samples,), before any levelling."""
        instrument = part.instrument
        channel, bank = (DRUM_CHANNEL, _PERCUSSION_BANK) if instrument.is_drum else (0, 0)
        self.synth.program_select(
            channel, self.soundfont, bank, instrument.preset, instrument.is_drum
        )
        stereo = np.zeros((samples, 2), dtype=np.float32)
        self._play(channel, part.notes, stereo)
        self.synth.sounds_off()
        self.synth.generate_simple(_DRAIN)
        return _fade_out(0.5 * (stereo[:, 0] + stereo[:, 1]))

    def _play(self, channel: int, notes: Sequence[Note], stereo: np.ndarray) -> None:
        """Fill `stereo`, (samples, 2), between the events of the notes."""
        buffer = memoryview(stereo.data).cast("B")
        frame = stereo.itemsize * stereo.shape[1]
        done = 0
        for at, pitch, velocity in [*_switches(notes, len(stereo)), (len(stereo), 0, 0)]:
            if at > done:
                self.synth.generate_simple(at - done, buffer[done * frame : at * frame])
                done = at
            if velocity:
                self.synth.noteon(channel, pitch, velocity)
            elif at < len(stereo):
                self.synth.noteoff(channel, pitch)


def _switches(notes: Sequence[Note], samples: int) -> list[tuple[int, int, int]]:
    """(sample, pitch, velocity) by time, velocity 0 for a release, releases first."""
    events = []
    for note in notes:
        events.append((round(note.start * SAMPLE_RATE), 1, note.pitch, note.velocity))
        events.append((round(note.end * SAMPLE_RATE), 0, note.pitch, 0))
    return [(at, pitch, velocity) for at, _, pitch, velocity in sorted(events) if at < samples]


def _fade_out(audio: np.ndarray) -> np.ndarray:
    """Fade the last `_FADE` seconds to zero, (samples,)."""
    length = min(len(audio), round(_FADE * SAMPLE_RATE))
    audio[len(audio) - length :] *= np.linspace(1.0, 0.0, length, dtype=np.float32)
    return audio


_OFFSET = -0.691  # dB, BS.1770-4 eq. 2
_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU below the mean of the blocks above the absolute gate
_HOP = 0.1  # seconds between blocks
_OVERLAP = 4  # a block is 4 hops: 400 ms


def _k_weighting(rate: int) -> np.ndarray:
    """The two biquads of K-weighting at `rate` Hz as second-order sections, (2, 6)."""
    return np.array([_high_shelf(1500.0, 4.0, rate), _high_pass(38.0, rate)], dtype=np.float32)


def _high_shelf(frequency: float, gain: float, rate: int) -> list[float]:
    """Shelf of `gain` dB above `frequency` Hz, Q = 1/sqrt(2), by the bilinear transform."""
    a, omega = 10.0 ** (gain / 40.0), 2.0 * np.pi * frequency / rate
    cos, root = np.cos(omega), np.sqrt(2.0 * a) * np.sin(omega)
    b = [a * (a + 1 + (a - 1) * cos + root), -2 * a * (a - 1 + (a + 1) * cos)]
    b.append(a * (a + 1 + (a - 1) * cos - root))
    den = [a + 1 - (a - 1) * cos + root, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - root]
    return [value / den[0] for value in (*b, *den)]


def _high_pass(frequency: float, rate: int) -> list[float]:
    """High pass at `frequency` Hz, Q = 1/2, its numerator 1, -2, 1 as in the standard."""
    omega = 2.0 * np.pi * frequency / rate
    alpha = np.sin(omega)
    den = [1 + alpha, -2 * np.cos(omega), 1 - alpha]
    return [1.0, -2.0, 1.0, *(value / den[0] for value in den)]


def integrated_loudness(audio: np.ndarray, rate: int) -> float:
    """LUFS of mono `audio`, (samples,); -inf when every block is below the absolute gate."""
    return gated_loudness(block_powers(audio, rate))


def block_powers(audio: np.ndarray, rate: int) -> np.ndarray:
    """Mean square of each 400 ms block of K-weighted mono `audio`, (samples,) to (blocks,)."""
    from scipy.signal import sosfilt  # a second to import, so only where it is used

    hop = round(_HOP * rate)
    weighted = sosfilt(_k_weighting(rate), np.asarray(audio, dtype=np.float32))
    weighted = np.pad(weighted, (0, max(0, _OVERLAP * hop - len(weighted))))
    hops = weighted[: len(weighted) // hop * hop].reshape(-1, hop)  # whole blocks only
    power = np.square(hops).mean(axis=1, dtype=np.float64)
    return np.convolve(power, np.full(_OVERLAP, 1.0 / _OVERLAP), mode="valid")


def gated_loudness(powers: np.ndarray) -> float:
    """LUFS of blocks of these powers. Not quite linear in level: one of the gates is absolute."""
    loud = powers[powers > _power(_ABSOLUTE_GATE)]
    if not len(loud):
        return -np.inf
    gate = _power(_lufs(loud.mean()) + _RELATIVE_GATE)
    return _lufs(loud[loud > gate].mean())


def _lufs(power: float) -> float:
    return float(_OFFSET + 10.0 * np.log10(power))


def _power(lufs: float) -> float:
    return float(10.0 ** ((lufs - _OFFSET) / 10.0))


_BANDS = 3  # of the equalizer
_BAND_FREQUENCIES = (80.0, 7000.0)  # Hz, logarithmically uniform
_BAND_GAIN = 4.0  # dB, standard deviation
_DRIVE_SHARE = 0.35  # share of stems that are driven
_DRIVE = (-6.0, 12.0)  # dB of a peak above the knee
_REVERB_SHARE = 0.6  # share of stems with a room
_REVERB_SECONDS = (0.2, 1.0)  # until the room has decayed by 60 dB
_REVERB_LEVEL = (-24.0, -8.0)  # dB of the room against the stem


def add_effects(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mono float32 `audio` (samples,) through an equalizer, drive and a room, drawn from `rng`."""
    audio = _equalize(audio, rate, rng)
    if rng.random() < _DRIVE_SHARE:
        audio = _drive(audio, rng)
    if rng.random() < _REVERB_SHARE:
        audio = _add_room(audio, rate, rng)
    return audio.astype(np.float32)


def _equalize(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Peaking filters with bandwidths from half an octave to three."""
    from scipy.signal import sosfilt  # a second to import, so only where it is used

    low, high = np.log(_BAND_FREQUENCIES)
    sections = []
    for _ in range(_BANDS):
        frequency, gain = np.exp(rng.uniform(low, high)), _BAND_GAIN * rng.normal()
        sections.append(_peak(frequency, gain, rng.uniform(0.4, 2.0), rate))
    return sosfilt(np.array(sections), audio)


def _peak(frequency: float, gain: float, quality: float, rate: int) -> list[float]:
    """A peak of `gain` dB at `frequency` Hz, a second-order section by the bilinear transform."""
    a, omega = 10.0 ** (gain / 40.0), 2.0 * np.pi * frequency / rate
    alpha, cos = np.sin(omega) / (2.0 * quality), np.cos(omega)
    numerator = [1.0 + alpha * a, -2.0 * cos, 1.0 - alpha * a]
    denominator = [1.0 + alpha / a, -2.0 * cos, 1.0 - alpha / a]
    return [value / denominator[0] for value in (*numerator, *denominator)]


def _drive(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A soft limiter whose knee is that far below the peak."""
    peak = np.abs(audio).max()
    knee = max(peak, 1e-9) * 10.0 ** (-rng.uniform(*_DRIVE) / 20.0)
    return knee * np.tanh(audio / knee)


def _add_room(audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Decaying noise as the room's response, at a level against the dry sound."""
    from scipy.signal import oaconvolve

    seconds = rng.uniform(*_REVERB_SECONDS)
    level = 10.0 ** (rng.uniform(*_REVERB_LEVEL) / 20.0)
    time = np.arange(round(seconds * rate)) / rate
    response = rng.normal(size=len(time)) * 10.0 ** (-3.0 * time / seconds)
    response *= level / np.sqrt(np.square(response).sum())
    return audio + oaconvolve(audio, response)[: len(audio)]
