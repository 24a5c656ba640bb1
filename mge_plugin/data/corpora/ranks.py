"""The songs that the first rank of a machine has indexed, for its other ranks.

Without it each of 64 ranks would look at every file of a corpus, 21,000 for Slakh2100.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mge_plugin.data.songs import Part, Song, Stem
from mge_plugin.files import read_index, write_index

_logger = logging.getLogger(__name__)

_LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID")  # set by Lightning and torchrun, by SLURM
_AT_ONCE = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")  # set where all ranks start together
_PATIENCE = 600.0  # seconds to wait for the first rank
_PAUSE = 0.5


def keep_for_ranks(path: Path, songs: Sequence[Sequence[Song]]) -> None:
    """Write the songs of every corpus for processes with this one's parent, and its children."""
    described = [[_song_values(song) for song in of_corpus] for of_corpus in songs]
    write_index(path, {"processes": [os.getpid(), os.getppid()], "songs": described})


def songs_of_first_rank(path: Path) -> list[tuple[Song, ...]] | None:
    """The songs that the first rank of this run has written; None in the first rank itself."""
    if not any(int(os.environ.get(name, 0)) for name in _LOCAL_RANK):
        return None
    waits = any(name in os.environ for name in _AT_ONCE)
    end = time.monotonic() + (_PATIENCE if waits else 0.0)
    while True:
        kept = read_index(path)
        if os.getppid() in kept.get("processes", ()):
            return [tuple(map(_song, of_corpus)) for of_corpus in kept["songs"]]
        if time.monotonic() >= end:
            _logger.warning("%s: not written by the first rank, all files are indexed", path)
            return None
        time.sleep(_PAUSE)


def _song_values(song: Song) -> list[Any]:
    stems = [
        [stem.label, stem.queryable, [_part_values(part) for part in (stem.cached, *stem.parts)]]
        for stem in song.stems
    ]
    return [song.id, str(song.path), song.split, song.mixture_only, stems]


def _part_values(part: Part | None) -> list[Any] | None:
    if part is None:
        return None
    return [str(part.path), part.sample_rate, part.num_frames, part.stream]


def _song(values: list[Any]) -> Song:
    name, path, split, mixture_only, stems = values
    return Song(name, Path(path), split, tuple(map(_stem, stems)), mixture_only)


def _stem(values: list[Any]) -> Stem:
    label, queryable, parts = values
    cached, *read = (part and Part(Path(part[0]), *part[1:]) for part in parts)
    return Stem(label, tuple(read), queryable, cached)
