"""Stems decoded once, at the model's rate and channels: reading them is some ten times as fast.

One file per stem: 16-bit samples (channels, samples) as safetensors, which readers map into memory
and share. `scale` in its header relates them to the stem's peak, so none clips. The file's name is
a hash of the stem's files, their sizes and times, and the format: a changed file gets another.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from tqdm import tqdm

from mge_plugin.data.audio import CACHED, AudioError, is_cached, write_cached
from mge_plugin.data.songs import Part, Song, Stem
from mge_plugin.data.triplets import Format, stem_window
from mge_plugin.files import remove_abandoned

_logger = logging.getLogger(__name__)

_VERSION = 1
_BLOCK = 1 << 20  # samples decoded at a time, at the model's rate


@dataclass(frozen=True)
class StemCache:
    """A folder of decoded stems of one rate and number of channels."""

    folder: Path
    sample_rate: int  # Hz
    channels: int

    def path(self, stem: Stem) -> Path:
        """The stem's file in the cache."""
        parts = [_stamp(part) for part in stem.parts]
        key = json.dumps([_VERSION, self.sample_rate, self.channels, parts])
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}{CACHED}"

    def build(self, songs: Sequence[Song], workers: int | None = None) -> list[Song]:
        """Decode the stems that are missing, and return songs that read from the cache.

        It may be stopped at any moment, and several jobs may run it at once: files are written
        whole and used by all. A stem that cannot be decoded stays as it is. Threads decode, since
        libsndfile and soxr release Python's lock while they work.
        """
        stems = list(dict.fromkeys(stem for song in songs for stem in song.stems))
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            kept = dict(zip(stems, pool.map(self.cached, stems), strict=True))
            if missing := [stem for stem in stems if kept[stem].cached is None]:
                remove_abandoned(self.folder, "*/.*.tmp")
                kept |= self._decode(missing, pool)
        return [replace(song, stems=tuple(kept[stem] for stem in song.stems)) for song in songs]

    def _decode(self, stems: list[Stem], pool: ThreadPoolExecutor) -> dict[Stem, Stem]:
        order = np.random.default_rng(os.getpid()).permutation(len(stems))  # jobs share the work
        tasks = {pool.submit(self.decoded, stems[i]): stems[i] for i in order}
        done = tqdm(as_completed(tasks), "decoding stems", len(tasks), unit="stem")
        try:
            return {tasks[task]: task.result() for task in done}
        finally:
            for task in tasks:  # after an error or Ctrl-C the others are not needed
                task.cancel()

    def cached(self, stem: Stem) -> Stem:
        """The stem, read from the cache if it is there."""
        path, frames = self.path(stem), self._frames(stem)
        if not is_cached(path, (self.channels, frames)):
            return stem
        return replace(stem, cached=Part(path, self.sample_rate, frames))

    def decoded(self, stem: Stem) -> Stem:
        """The stem, decoded unless another job has done so; unchanged if it cannot be decoded."""
        cached = self.cached(stem)
        if cached.cached is not None:
            return cached
        try:
            write_cached(self.path(stem), self._whole(stem))
        except AudioError as error:
            _logger.warning("not decoded: %s", error)
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
        for start in range(0, audio.shape[1], _BLOCK):
            block = audio[:, start : start + _BLOCK]
            form = Format(self.sample_rate, block.shape[1], self.channels)
            block[:] = stem_window(stem, start, form)
        return audio


def _stamp(part: Part) -> list[str | int | None]:
    """Values that change when the file changes; the cache's file names depend on them."""
    try:
        status = part.path.stat()
    except OSError:
        return [str(part.path), None, None, part.stream]
    return [str(part.path.resolve()), status.st_size, status.st_mtime_ns, part.stream]
