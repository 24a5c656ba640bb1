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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from tqdm import tqdm

from mge_plugin.data.audio import SUFFIX, AudioError, is_whole, write_cached
from mge_plugin.data.songs import Part, Song, Stem
from mge_plugin.data.triplets import Format, stem_window

logger = logging.getLogger(__name__)

_VERSION = 1
BLOCK = 1 << 20  # samples decoded at a time, at the model's rate
_ABANDONED = 3600  # seconds after which a temporary file is a killed run's


@dataclass(frozen=True)
class StemCache:
    """A folder of decoded stems of one rate and number of channels."""

    folder: Path
    sample_rate: int  # Hz
    channels: int

    def path(self, stem: Stem) -> Path:
        """Where a stem is kept."""
        parts = [_stamp(part) for part in stem.parts]
        key = json.dumps([_VERSION, self.sample_rate, self.channels, parts])
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def build(self, songs: Sequence[Song], workers: int | None = None) -> list[Song]:
        """Decode what is not there yet, and return the songs reading from here.

        It may be stopped at any moment, and run by several jobs at once: a file is written whole,
        and what one has made the others take. A stem that cannot be decoded stays as it is.
        Threads do it: libsndfile and soxr leave Python's lock while they work.
        """
        stems = list(dict.fromkeys(stem for song in songs for stem in song.stems))
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            kept = dict(zip(stems, pool.map(self.cached, stems), strict=True))
            if missing := [stem for stem in stems if kept[stem].cached is None]:
                _remove_abandoned(self.folder)
                kept |= self._decode(missing, pool)
        return [replace(song, stems=tuple(kept[stem] for stem in song.stems)) for song in songs]

    def _decode(self, stems: list[Stem], pool: ThreadPoolExecutor) -> dict[Stem, Stem]:
        order = np.random.default_rng(os.getpid()).permutation(len(stems))  # jobs share the work
        tasks = {pool.submit(self.decoded, stems[i]): stems[i] for i in order}
        done = tqdm(as_completed(tasks), "decoding stems", len(tasks), unit="stem")
        try:
            return {tasks[task]: task.result() for task in done}
        finally:
            for task in tasks:  # after an error or Ctrl-C nobody waits for those not begun
                task.cancel()

    def cached(self, stem: Stem) -> Stem:
        """The stem, read from here if it is here."""
        path, frames = self.path(stem), self._frames(stem)
        if not is_whole(path, (self.channels, frames)):
            return stem
        return replace(stem, cached=Part(path, self.sample_rate, frames))

    def decoded(self, stem: Stem) -> Stem:
        """The stem, decoded to here unless another job has; as it is if it cannot be decoded."""
        cached = self.cached(stem)
        if cached.cached is not None:
            return cached
        try:
            write_cached(self.path(stem), self._whole(stem))
        except AudioError as error:
            logger.warning("not kept decoded: %s", error)
            return stem
        except (OSError, SafetensorError) as error:
            raise OSError(f"cache_dir {self.folder}: {stem.path} not kept: {error}") from error
        return self.cached(stem)

    def _frames(self, stem: Stem) -> int:
        """The longest part's length at the cache's rate."""
        return max(-(-p.num_frames * self.sample_rate // p.sample_rate) for p in stem.parts)

    def _whole(self, stem: Stem) -> np.ndarray:
        """The stem as windows of it are read, (channels, samples) at the cache's rate."""
        audio = np.zeros((self.channels, self._frames(stem)), dtype=np.float32)
        for start in range(0, audio.shape[1], BLOCK):
            block = audio[:, start : start + BLOCK]
            form = Format(self.sample_rate, block.shape[1], self.channels)
            block[:] = stem_window(stem, start, form)
        return audio


def _stamp(part: Part) -> list[str | int | None]:
    """What has to be the same for what was decoded to be true still."""
    try:
        status = part.path.stat()
    except OSError:
        return [str(part.path), None, None, part.stream]
    return [str(part.path.resolve()), status.st_size, status.st_mtime_ns, part.stream]


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of runs that were killed."""
    for path in folder.glob("*/.*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
        except FileNotFoundError:
            continue  # another job was faster
