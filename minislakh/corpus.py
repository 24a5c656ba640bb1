"""MiniSlakh: a small made-up corpus in the layout of Slakh2100 (redux).

OUT/
    minislakh.json                   the settings it was made with
    train/Track00001/ ...            about 80 % of the songs
    validation/Track00081/ ...       about 10 %
    test/Track00091/ ...             about 10 %
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .synth import require_packages
from .track import PLAIN, Sound, write_track

SETTINGS = "minislakh.json"
VERSION = 1  # raise it when the same seed no longer gives the same bytes
SHORTEST = 4.0  # seconds
HELD_OUT = 0.1  # share of the songs in validation, and in test
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    songs: int
    seconds: float  # length of each song
    seed: int
    version: int = VERSION
    soundfonts: tuple[str, ...] = ()  # names of the files
    effects: float = 0.0
    core: float = 0.0

    def __post_init__(self) -> None:
        if self.songs < 1:
            raise ValueError(f"songs = {self.songs}: expected 1 or more")
        if not SHORTEST <= self.seconds < float("inf"):
            raise ValueError(f"seconds = {self.seconds}: expected {SHORTEST} or more")
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
    sound: Sound = PLAIN,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `songs` songs of `seconds` into `out` and return it.

    The same seed gives the same bytes, whatever the workers; song i is the same in every corpus of
    that seed and length. A second run writes only the tracks that are not there.
    """
    out = Path(out)
    fonts = tuple(path.name for path in sound.soundfonts)
    settings = Settings(
        songs, float(seconds), seed, soundfonts=fonts, effects=sound.effects, core=sound.core
    )
    if absent := [str(path) for path in sound.soundfonts if not path.is_file()]:
        raise FileNotFoundError(f"soundfonts: no such file: {', '.join(absent)}")
    if workers < 1:
        raise ValueError(f"workers = {workers}: expected 1 or more")
    require_packages()
    claim_folder(out, settings)
    missing = [(*job, sound) for job in plan_tracks(out, settings) if not job[0].exists()]
    log.info("%s: %d of %d songs to write", out, len(missing), songs)
    for folder in {folder.parent: None for folder, *_ in missing}:
        folder.mkdir(exist_ok=True)
    with tqdm(total=len(missing), unit="song", disable=not progress) as bar:
        for _ in _write_all(missing, workers):
            bar.update()
    return out


def split_sizes(songs: int) -> dict[str, int]:
    """Songs in each split: a tenth, one at least, in the last two each; under 3, all in train."""
    held_out = max(1, round(HELD_OUT * songs)) if songs >= 3 else 0
    return {"train": songs - 2 * held_out, "validation": held_out, "test": held_out}


def plan_tracks(out: Path, settings: Settings) -> list[tuple[Path, int, int, float]]:
    """The arguments of `write_track` for every song, numbered from Track00001 over the splits."""
    splits = [split for split, size in split_sizes(settings.songs).items() for _ in range(size)]
    return [
        (out / split / f"Track{index + 1:05d}", settings.seed, index, settings.seconds)
        for index, split in enumerate(splits)
    ]


def claim_folder(out: Path, settings: Settings) -> None:
    """Make `out` and keep the settings in it; a folder of anything else is refused."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, expected a folder or nothing")
    if (out / SETTINGS).exists():
        _check_settings(out, settings)
        return
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if found:
        raise ValueError(
            f"{out}: expected an empty folder or one with {SETTINGS}, found {found[:5]}"
        )
    unfinished = out / f".{SETTINGS}.tmp"
    unfinished.write_text(json.dumps(settings.to_json(), indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, out / SETTINGS)


def _check_settings(out: Path, settings: Settings) -> None:
    """Raise unless `out` was begun with the same settings."""
    text = (out / SETTINGS).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{out / SETTINGS}: not JSON ({error}); expected a MiniSlakh's") from error
    if found != settings.to_json():
        raise ValueError(
            f"{out}: has a MiniSlakh of {found}, requested {settings.to_json()}; "
            "use another folder or the same settings"
        )


def _write_all(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[None]:
    """Write every track, here or in `workers` processes; yields after each one."""
    if workers == 1:
        for job in jobs:
            yield write_track(*job)
        return
    # spawn: the parent may hold threads, which a fork would copy in mid-flight
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(write_track, *job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, begin no further song
