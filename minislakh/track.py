"""One song as a Slakh2100 folder.

Track00001/
    metadata.yaml
    all_src.mid   mix.flac
    MIDI/S00.mid  MIDI/S01.mid  ...
    stems/S00.flac  stems/S01.flac  ...
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml

from .compose import compose_song
from .effects import add_effects
from .loudness import block_powers, gated_loudness
from .midi import midi_bytes
from .score import Part, Score
from .synth import SAMPLE_RATE, find_soundfont, open_soundfont

NORMALIZATION_FACTOR = -13.0  # LUFS of a stem at level 0, before the overall gain
TARGET_PEAK = -1.0  # dBFS of the mix
FULL_SCALE = 32768  # of 16-bit samples


# LUFS of a part as rendered; a fainter one is played by the first soundfont. The synthesizer
# ignores modulators, and some presets need them to open their filters.
FAINT = -50.0
SOUND_STREAM = 1  # of a song's randomness: soundfonts and effects


@dataclass(frozen=True)
class Sound:
    """How songs are played; the default is one soundfont and nothing else."""

    soundfonts: tuple[Path, ...] = ()  # each part is played by one of them, drawn by seed
    effects: float = 0.0  # share of songs whose stems go through effects
    core: float = 0.0  # share of songs of bass, drums, guitar and piano alone


PLAIN = Sound()


def write_track(folder: Path, seed: int, index: int, seconds: float, sound: Sound) -> None:
    """Compose, render and write one song; `folder` appears only when it is complete."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in ("stems", "MIDI"):
        (unfinished / name).mkdir(parents=True)
    score = compose_song(seed, index, seconds, sound.core)
    rng = np.random.default_rng([seed, index, SOUND_STREAM])
    rendered, fonts = render_parts(score, sound, rng)
    if rng.random() < sound.effects:
        rendered = [add_effects(audio, SAMPLE_RATE, rng) for audio in rendered]
    stems, loudness = level_stems(score, rendered)
    gain = overall_gain(stems)
    write_audio(unfinished, [to_int16(stem * gain) for stem in stems])
    digest = write_midi(unfinished, score)
    fields = metadata(score, fonts, loudness, gain, digest)
    (unfinished / "metadata.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    unfinished.rename(folder)


def render_parts(
    score: Score, sound: Sound, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[Path]]:
    """Each part's audio, float32 (samples,), before any levelling, and its soundfont."""
    fonts = sound.soundfonts or (find_soundfont(),)
    numbers = rng.integers(len(fonts), size=len(score.parts))
    samples = round(score.seconds * SAMPLE_RATE)
    rendered, used = [], []
    for part, number in zip(score.parts, numbers, strict=True):
        font = fonts[number]
        audio = open_soundfont(font).render(part, samples)
        if font != fonts[0] and gated_loudness(block_powers(audio, SAMPLE_RATE)) < FAINT:
            font = fonts[0]
            audio = open_soundfont(font).render(part, samples)
        rendered.append(audio)
        used.append(font)
    return rendered, used


def level_stems(
    score: Score, rendered: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """Stems, float32 (samples,) each, at their loudness in the song, and that loudness in LUFS."""
    stems, loudness = [], []
    for part, audio in zip(score.parts, rendered, strict=True):
        powers = block_powers(audio, SAMPLE_RATE)
        found = gated_loudness(powers)
        if not np.isfinite(found):
            raise ValueError(f"{part.instrument.name}: silence from {len(part.notes)} notes")
        gain = 10.0 ** ((NORMALIZATION_FACTOR + part.level - found) / 20.0)
        stems.append(audio * np.float32(gain))
        loudness.append(round(gated_loudness(powers * gain**2), 3))
    return stems, loudness


def overall_gain(stems: Sequence[np.ndarray]) -> float:
    """The gain that puts the peak of the mix at TARGET_PEAK (of a stem, should one peak higher)."""
    peaks = [np.abs(audio).max() for audio in (np.sum(stems, axis=0), *stems)]
    # rounded: the last bits of a sum differ between versions of numpy
    return round(float(10.0 ** (TARGET_PEAK / 20.0) / max(peaks)), 6)


def to_int16(audio: np.ndarray) -> np.ndarray:
    return np.rint(audio * FULL_SCALE).astype(np.int16)


def write_audio(folder: Path, stems: Sequence[np.ndarray]) -> None:
    """The int16 stems as S00.flac and on, and their exact sum, which does not reach full scale."""
    for place, stem in enumerate(stems):
        soundfile.write(folder / "stems" / f"S{place:02d}.flac", stem, SAMPLE_RATE, "PCM_16")
    mix = np.sum(stems, axis=0, dtype=np.int16)  # a partial sum may wrap, the whole one fits
    soundfile.write(folder / "mix.flac", mix, SAMPLE_RATE, "PCM_16")


def write_midi(folder: Path, score: Score) -> str:
    """MIDI/S00.mid and on, and all_src.mid, whose md5 in hex is returned."""
    for place, part in enumerate(score.parts):
        (folder / "MIDI" / f"S{place:02d}.mid").write_bytes(midi_bytes(score, [part]))
    everything = midi_bytes(score, score.parts)
    (folder / "all_src.mid").write_bytes(everything)
    return hashlib.md5(everything, usedforsecurity=False).hexdigest()


def metadata(
    score: Score, fonts: Sequence[Path], loudness: Sequence[float], gain: float, digest: str
) -> dict:
    """The fields of metadata.yaml; UUID is the md5 of all_src.mid, as Slakh's is of its source."""
    stems = zip(score.parts, fonts, loudness, strict=True)
    return {
        "UUID": digest,
        "audio_dir": "stems",
        "lmd_midi_dir": f"minislakh/{digest}.mid",
        "midi_dir": "MIDI",
        "normalization_factor": NORMALIZATION_FACTOR,
        "normalized": True,
        "overall_gain": gain,
        "stems": {f"S{place:02d}": _stem_fields(*stem) for place, stem in enumerate(stems)},
        "target_peak": TARGET_PEAK,
    }


def _stem_fields(part: Part, font: Path, loudness: float) -> dict:
    """Slakh's fields of one stem; `integrated_loudness` is before the overall gain, LUFS."""
    instrument = part.instrument
    return {
        "audio_rendered": True,
        "inst_class": instrument.inst_class,
        "integrated_loudness": loudness,
        "is_drum": instrument.is_drum,
        "midi_program_name": instrument.name,
        "midi_saved": True,
        "plugin_name": font.name,
        "program_num": instrument.program,
    }
