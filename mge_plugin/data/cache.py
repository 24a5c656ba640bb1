"""Stems decoded once, at the model's rate and channels, for reading at a hundred windows a second.

A file a stem: 16-bit samples (channels, samples) as safetensors, which readers map into memory and
share; `scale` in its header relates them to the stem's own peak, so none clips. Its name is decided
by the stem's files, their sizes and times, and the format: a changed file gets another.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from mge_plugin.data.audio import fit_length, read_window, resample, to_channels
from mge_plugin.data.decoded import SUFFIX
from mge_plugin.data.errors import AudioError
from mge_plugin.data.songs import Part, Song, Stem
from mge_plugin.files import written_whole

logger = logging.getLogger(__name__)

VERSION = 1
FULL = 32767  # of 16 bits
ABANDONED = 3600  # seconds after which a temporary file is a killed run's


@dataclass(frozen=True)
class StemCache:
    """A folder of decoded stems of one rate and number of channels."""

    folder: Path
    sample_rate: int  # Hz
    channels: int

    def path(self, stem: Stem) -> Path:
        """Where a stem is kept."""
        parts = [_stamp(part) for part in stem.parts]
        key = json.dumps([VERSION, self.sample_rate, self.channels, parts])
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def build(self, songs: Sequence[Song], workers: int | None = None) -> list[Song]:
        """Decode what is not there yet, and return the songs reading from here.

        It may be stopped at any moment, and run by several jobs at once: a file is written whole,
        and what one has made the others take. A stem that cannot be decoded stays as it is.
        """
        stems = list(dict.fromkeys(stem for song in songs for stem in song.stems))
        missing = [stem for stem in stems if not self.path(stem).is_file()]
        if missing:
            _remove_abandoned(self.folder)
            self._decode(missing, workers or os.cpu_count() or 1)
        return [replace(s, stems=tuple(self.cached(stem) for stem in s.stems)) for s in songs]

    def _decode(self, stems: list[Stem], workers: int) -> None:
        order = np.random.default_rng(os.getpid()).permutation(len(stems))  # jobs share the work
        pool = ProcessPoolExecutor(min(workers, len(stems)), get_context("spawn"))
        with pool, tqdm(total=len(stems), desc="decoding stems", unit="stem") as bar:
            tasks = {pool.submit(decode, self, stems[i]): stems[i] for i in order}
            for task in as_completed(tasks):
                bar.update()
                if problem := task.result():
                    logger.warning("not kept decoded: %s", problem)

    def cached(self, stem: Stem) -> Stem:
        """The stem, read from here if it is here."""
        path = self.path(stem)
        if not path.is_file():
            return stem
        frames = max(_length(part, self.sample_rate) for part in stem.parts)
        return replace(stem, cached=Part(path, self.sample_rate, frames))


def decode(cache: StemCache, stem: Stem) -> str | None:
    """Write one stem, unless another job has; returns what is wrong with it, if anything."""
    path = cache.path(stem)
    if path.is_file():
        return None
    try:
        audio = _whole(stem, cache)
    except AudioError as error:
        return str(error)
    peak = float(np.abs(audio).max()) or 1.0
    samples = np.round(audio * (FULL / peak)).astype(np.int16)
    with written_whole(path) as partial:
        save_file({"audio": samples}, partial, {"scale": repr(peak / FULL)})
    return None


def _whole(stem: Stem, cache: StemCache) -> np.ndarray:
    """The sum of a stem's parts, (channels, samples) at the cache's rate."""
    frames = max(_length(part, cache.sample_rate) for part in stem.parts)
    total = np.zeros((cache.channels, frames), dtype=np.float32)
    for part in stem.parts:
        audio = read_window(part.path, 0, part.num_frames, part.stream)
        audio = resample(to_channels(audio, cache.channels), part.sample_rate, cache.sample_rate)
        total += fit_length(audio, frames)
    return total


def _length(part: Part, sample_rate: int) -> int:
    return -(-part.num_frames * sample_rate // part.sample_rate)


def _stamp(part: Part) -> list[str | int | None]:
    """What has to be the same for what was decoded to be true still."""
    try:
        status = part.path.stat()
    except OSError:
        return [str(part.path), None, None, part.stream]
    return [str(part.path.resolve()), status.st_size, status.st_mtime_ns, part.stream]


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of runs that were killed."""
    for path in _temporary(folder):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
        except FileNotFoundError:
            continue  # another job was faster


def _temporary(folder: Path) -> Iterator[Path]:
    return folder.glob("*/.*.tmp")
