"""All segments through all systems: each rank its share, every score kept as soon as it is there.

OUT/segments.json               what is judged
OUT/scores/SYSTEM.rank0.jsonl   one line a segment; a run that was stopped goes on after the last
OUT/audio/SYSTEM/SEGMENT.wav    estimates, and OUT/audio/reference/... what they are held against
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mge_plugin.data.audio import AudioError, write_wav
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import Song
from mge_plugin.evaluation.clap_score import ClapScore
from mge_plugin.evaluation.scores import VERSION, score
from mge_plugin.evaluation.segments import Estimate, Heard, Segment, listen
from mge_plugin.evaluation.systems import System
from mge_plugin.files import file_stem

logger = logging.getLogger(__name__)

REFERENCE = "reference"


@dataclass(frozen=True)
class Scored:
    """A segment's figures of one system, or why there are none."""

    system: str
    segment: Segment
    scores: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Where, of what, and by whom."""

    out: Path
    segments: Sequence[Segment]
    corpora: Sequence[Corpus]
    channels: int
    batch: int = 4
    rank: int = 0
    world: int = 1
    clap: ClapScore | None = None  # None if the model's conditioner cannot hear

    def run(self, systems: Sequence[System], key: str) -> None:
        """Score this rank's share; what an earlier run with the same `key` scored stays.

        A system that is not told by its name alone has a `key` of its own.
        """
        songs = {(c.config.id, s.id): s for c in self.corpora for s in c.songs}
        mine = self.segments[self.rank :: self.world]
        for system in systems:
            by = None if self.clap is None else self.clap.name
            told = json.dumps([key, getattr(system, "key", None), by, VERSION])
            self._run(system, mine, songs, hashlib.sha256(told.encode()).hexdigest()[:16])

    def _run(
        self,
        system: System,
        segments: Sequence[Segment],
        songs: Mapping[tuple[str, str], Song],
        key: str,
    ) -> None:
        path = self.out / "scores" / f"{file_stem(system.name)}.rank{self.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        last = {entry["segment"]: entry["key"] for entry in _lines(path)}  # as the audio kept is
        left = [segment for segment in segments if last.get(segment.id) != key]
        _end_last_line(path)
        with path.open("a") as file, tqdm(total=len(left), desc=system.name, unit="segment") as bar:
            for first in range(0, len(left), self.batch):
                batch = left[first : first + self.batch]
                for scored in self._score(system, batch, songs):
                    line = {"key": key, "segment": scored.segment.id, "failed": scored.failed}
                    file.write(json.dumps(line | {"scores": dict(scored.scores)}) + "\n")
                file.flush()
                bar.update(len(batch))

    def _score(
        self,
        system: System,
        segments: Sequence[Segment],
        songs: Mapping[tuple[str, str], Song],
    ) -> Iterator[Scored]:
        heard, failed = [], []
        for segment in segments:
            try:
                song = songs[segment.corpus, segment.song]
                heard.append(listen(segment, song, self.channels))
            except (KeyError, AudioError) as error:
                failed.append(Scored(system.name, segment, failed=f"cannot be read: {error}"))
        yield from failed
        for h, estimate in self._estimates(system, heard):
            if isinstance(estimate, str):
                logger.warning("%s: %s: %s", system.name, h.segment.id, estimate)
                yield Scored(system.name, h.segment, failed=estimate)
                continue
            self._keep(system.name, h, estimate.audio)
            yield Scored(system.name, h.segment, score(h, estimate, self.clap))

    def _estimates(
        self, system: System, heard: Sequence[Heard]
    ) -> Iterator[tuple[Heard, Estimate | str]]:
        """Each estimate, or why there is none; one that fails takes no other with it."""
        try:
            yield from zip(heard, system.estimate(heard), strict=True)
        except (ValueError, OSError):
            for h in heard:
                try:
                    yield h, system.estimate([h])[0]
                except (ValueError, OSError) as error:
                    yield h, str(error)

    def _keep(self, system: str, heard: Heard, estimate: np.ndarray) -> None:
        """Audio for FAD, and to listen to."""
        segment = heard.segment
        wanted = heard.truth if segment.task in ("extract", "add") else heard.mixture
        together = heard.given + estimate if segment.task == "add" else estimate
        reference = heard.mixture if segment.task == "add" else wanted
        for name, audio in ((system, together), (REFERENCE, reference)):
            path = audio_path(self.out, name, segment)
            if name == system or not path.is_file():
                write_wav(path, audio, segment.sample_rate)


def collect(out: Path, segments: Sequence[Segment]) -> list[Scored]:
    """The last line of every rank on each segment and system."""
    by_id = {segment.id: segment for segment in segments}
    found: dict[tuple[str, str], Scored] = {}
    for path in sorted((out / "scores").glob("*.jsonl")):
        system = path.name.split(".rank")[0]
        for entry in _lines(path):
            if entry["segment"] in by_id:
                scored = Scored(system, by_id[entry["segment"]], entry["scores"], entry["failed"])
                found[system, entry["segment"]] = scored
    return sorted(found.values(), key=lambda s: s.system != "model")  # the model is the first row


def audio_path(out: Path, system: str, segment: Segment) -> Path:
    """Where a system's audio of a segment is kept."""
    folders = [file_stem(part) for part in segment.id.split("/")]
    return out.joinpath("audio", file_stem(system), *folders).with_suffix(".wav")


def _end_last_line(path: Path) -> None:
    """A line that a kill has cut must not swallow the next."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; the last one may have been cut by a kill."""
    if not path.is_file():
        return
    for line in filter(None, path.read_text().splitlines()):
        try:
            yield json.loads(line)
        except ValueError:
            logger.warning("%s: a cut line is scored again", path)
