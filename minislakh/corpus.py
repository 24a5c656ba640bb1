"""MiniSlakh: a small synthetic corpus in the layout of Slakh2100 (redux).

OUT/
    minislakh.json                       its settings
    train/Track00001/                    about 80 % of the songs
        metadata.yaml
        all_src.mid   mix.flac
        MIDI/S00.mid  MIDI/S01.mid  ...
        stems/S00.flac  stems/S01.flac  ...
    validation/Track00081/ ...           about 10 %
    test/Track00091/ ...                 about 10 %
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

from .compose import compose_song
from .score import Part, Score, midi_bytes
from .sound import (
    SAMPLE_RATE,
    add_effects,
    block_powers,
    find_soundfont,
    gated_loudness,
    open_soundfont,
    require_packages,
)

_SETTINGS = "minislakh.json"
_VERSION = 1  # raise it when the same seed no longer gives the same bytes
_SHORTEST = 4.0  # seconds
_ABANDONED = 3600  # seconds after which a temporary folder belongs to a run that was killed
_HELD_OUT = 0.1  # share of the songs in validation, and in test
_log = logging.getLogger(__name__)
_NORMALIZATION_FACTOR = -13.0  # LUFS of a stem at level 0, before the overall gain
_TARGET_PEAK = -1.0  # dBFS of the mix
_FULL_SCALE = 32768  # of 16-bit samples
# LUFS of a part as rendered; a fainter one is played by the first soundfont. The synthesizer
# ignores modulators, and some presets need them to open their filters.
_FAINT = -50.0
_SOUND_STREAM = 1  # of a song's randomness: soundfonts and effects


@dataclass(frozen=True)
class Sound:
    """How songs are played; the default is one soundfont and nothing else."""

    soundfonts: tuple[Path, ...] = ()  # each part is played by one of them, drawn by seed
    effects: float = 0.0  # share of songs whose stems go through effects
    core: float = 0.0  # share of songs of bass, drums, guitar and piano alone


_PLAIN = Sound()


def _write_track(folder: Path, seed: int, index: int, seconds: float, sound: Sound) -> None:
    """Compose, render and write one song; `folder` appears only when it is complete."""
    unfinished = _temporary(folder)
    try:
        _write_files(unfinished, compose_song(seed, index, seconds, sound.core), seed, index, sound)
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has written the same bytes
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def _write_files(folder: Path, score: Score, seed: int, index: int, sound: Sound) -> None:
    for name in ("stems", "MIDI"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng([seed, index, _SOUND_STREAM])
    rendered, fonts = _render_parts(score, sound, rng)
    if rng.random() < sound.effects:
        rendered = [add_effects(audio, SAMPLE_RATE, rng) for audio in rendered]
    stems, loudness = _level_stems(score, rendered)
    gain = _overall_gain(stems)
    _write_audio(folder, [_to_int16(stem * gain) for stem in stems])
    digest = _write_midi(folder, score)
    fields = _metadata(score, fonts, loudness, gain, digest)
    _write(folder / "metadata.yaml", yaml.safe_dump(fields).encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file; an error names it and the bytes."""
    try:
        path.write_bytes(content)
    except OSError as error:
        reason = f"{error.strerror or error}, writing {len(content)} bytes"
        raise OSError(error.errno, reason, str(path)) from error


def _render_parts(
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
        if font != fonts[0] and gated_loudness(block_powers(audio, SAMPLE_RATE)) < _FAINT:
            font = fonts[0]
            audio = open_soundfont(font).render(part, samples)
        rendered.append(audio)
        used.append(font)
    return rendered, used


def _level_stems(
    score: Score, rendered: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """Stems, float32 (samples,) each, at their loudness in the song, and that loudness in LUFS."""
    stems, loudness = [], []
    for part, audio in zip(score.parts, rendered, strict=True):
        powers = block_powers(audio, SAMPLE_RATE)
        found = gated_loudness(powers)
        if not np.isfinite(found):
            raise ValueError(f"{part.instrument.name}: silence from {len(part.notes)} notes")
        gain = 10.0 ** ((_NORMALIZATION_FACTOR + part.level - found) / 20.0)
        stems.append(audio * np.float32(gain))
        loudness.append(round(gated_loudness(powers * gain**2), 3))
    return stems, loudness


def _overall_gain(stems: Sequence[np.ndarray]) -> float:
    """The gain that puts the highest peak of mix and stems at `_TARGET_PEAK`."""
    peaks = [np.abs(audio).max() for audio in (np.sum(stems, axis=0), *stems)]
    # rounded: the last bits of a sum differ between versions of numpy
    return round(float(10.0 ** (_TARGET_PEAK / 20.0) / max(peaks)), 6)


def _to_int16(audio: np.ndarray) -> np.ndarray:
    return np.rint(audio * _FULL_SCALE).astype(np.int16)


def _write_audio(folder: Path, stems: Sequence[np.ndarray]) -> None:
    """The int16 stems as S00.flac and on, and their exact sum, which does not reach full scale."""
    for place, stem in enumerate(stems):
        _write(folder / "stems" / f"S{place:02d}.flac", _flac(stem))
    mix = np.sum(stems, axis=0, dtype=np.int16)  # a partial sum may wrap, the whole one fits
    _write(folder / "mix.flac", _flac(mix))


def _flac(samples: np.ndarray) -> bytes:
    """In memory: libsndfile reports a full disk without its cause."""
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    return content.getvalue()


def _write_midi(folder: Path, score: Score) -> str:
    """MIDI/S00.mid and on, and all_src.mid, whose md5 in hex is returned."""
    for place, part in enumerate(score.parts):
        _write(folder / "MIDI" / f"S{place:02d}.mid", midi_bytes(score, [part]))
    everything = midi_bytes(score, score.parts)
    _write(folder / "all_src.mid", everything)
    return hashlib.md5(everything, usedforsecurity=False).hexdigest()


def _metadata(
    score: Score, fonts: Sequence[Path], loudness: Sequence[float], gain: float, digest: str
) -> dict:
    """The fields of metadata.yaml; UUID is the md5 of all_src.mid, as Slakh's is of its source."""
    stems = zip(score.parts, fonts, loudness, strict=True)
    return {
        "UUID": digest,
        "audio_dir": "stems",
        "lmd_midi_dir": f"minislakh/{digest}.mid",
        "midi_dir": "MIDI",
        "normalization_factor": _NORMALIZATION_FACTOR,
        "normalized": True,
        "overall_gain": gain,
        "stems": {f"S{place:02d}": _stem_fields(*stem) for place, stem in enumerate(stems)},
        "target_peak": _TARGET_PEAK,
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


@dataclass(frozen=True)
class _Settings:
    songs: int
    seconds: float  # length of each song
    seed: int
    version: int = _VERSION
    soundfonts: tuple[str, ...] = ()  # names of the files
    effects: float = 0.0
    core: float = 0.0

    def __post_init__(self) -> None:
        if self.songs < 1:
            raise ValueError(f"songs = {self.songs}: expected 1 or more")
        if not _SHORTEST <= self.seconds < float("inf"):
            raise ValueError(f"seconds = {self.seconds}: expected {_SHORTEST} or more")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: expected 0 or more")
        for name in ("effects", "core"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected a share from 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """As written to the corpus; options that are off are left out, as in older corpora."""
        values = asdict(self) | {"soundfonts": list(self.soundfonts)}
        optional = ("soundfonts", "effects", "core")
        return {name: value for name, value in values.items() if value or name not in optional}


def write_corpus(
    out: Path,
    songs: int,
    seconds: float,
    seed: int,
    *,
    sound: Sound = _PLAIN,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `songs` songs of `seconds` into `out` and return it.

    The same seed gives the same bytes, whatever the workers; song i is the same in every corpus of
    that seed and length. A second run writes only the tracks that are not there.
    """
    out = Path(out)
    fonts = tuple(path.name for path in sound.soundfonts)
    settings = _Settings(
        songs, float(seconds), seed, soundfonts=fonts, effects=sound.effects, core=sound.core
    )
    if absent := [str(path) for path in sound.soundfonts if not path.is_file()]:
        raise FileNotFoundError(f"soundfonts: no such file: {', '.join(absent)}")
    if workers < 1:
        raise ValueError(f"workers = {workers}: expected 1 or more")
    require_packages()
    _claim_folder(out, settings)
    missing = [(*job, sound) for job in _plan_tracks(out, settings) if not job[0].exists()]
    _log.info("%s: %d of %d songs to write", out, len(missing), songs)
    for folder in {folder.parent: None for folder, *_ in missing}:
        folder.mkdir(exist_ok=True)
        _remove_abandoned(folder)
    with tqdm(total=len(missing), unit="song", disable=not progress) as bar:
        for _ in _write_all(missing, workers):
            bar.update()
    return out


def split_sizes(songs: int) -> dict[str, int]:
    """Songs in each split: a tenth, one at least, in the last two each; under 3, all in train."""
    held_out = max(1, round(_HELD_OUT * songs)) if songs >= 3 else 0
    return {"train": songs - 2 * held_out, "validation": held_out, "test": held_out}


def _plan_tracks(out: Path, settings: _Settings) -> list[tuple[Path, int, int, float]]:
    """The arguments of `_write_track` for every song, numbered from Track00001 over the splits."""
    splits = [split for split, size in split_sizes(settings.songs).items() for _ in range(size)]
    return [
        (out / split / f"Track{index + 1:05d}", settings.seed, index, settings.seconds)
        for index, split in enumerate(splits)
    ]


def _claim_folder(out: Path, settings: _Settings) -> None:
    """Make `out` and keep the settings in it; a folder of anything else is refused."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, expected a folder or nothing")
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if (out / _SETTINGS).exists():  # looked for last: another process may be writing
        _check_settings(out, settings)
    elif found:
        raise ValueError(
            f"{out}: expected an empty folder or one with {_SETTINGS}, found {found[:5]}"
        )
    else:
        unfinished = _temporary(out / _SETTINGS)
        try:
            _write(unfinished, (json.dumps(settings.to_json(), indent=2) + "\n").encode())
            unfinished.replace(out / _SETTINGS)
        finally:
            unfinished.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed runs left in a split's folder: songs of which nothing changed lately."""
    for path in folder.glob(".Track*.tmp"):
        with suppress(FileNotFoundError):  # finished just now
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _check_settings(out: Path, settings: _Settings) -> None:
    """Raise unless `out` was begun with the same settings."""
    text = (out / _SETTINGS).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{out / _SETTINGS}: not JSON ({error}); expected a MiniSlakh's"
        ) from error
    if found != settings.to_json():
        raise ValueError(
            f"{out}: has a MiniSlakh of {found}, requested {settings.to_json()}; "
            "use another folder or the same settings"
        )


def _write_all(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[None]:
    """Write every track, here or in `workers` processes; yields after each one."""
    if workers == 1:
        for job in jobs:
            _write_track(*job)
            yield
        return
    # spawn: the parent may hold threads, which a fork would copy in mid-flight
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _watch_parent)
    try:
        for future in as_completed([pool.submit(_write_track, *job) for job in jobs]):
            future.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, begin no further song


def _watch_parent() -> None:
    """End this worker when its parent ends: one whose parent was killed would wait forever."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
