"""FAD of kept audio: each system's estimates against the references, group by group.

Embeddings are made anew from the files every time: nothing is kept by a file's name.

Figures of one estimate of one segment.

All segments through all systems: each rank its share, every score kept as soon as it is there.

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

from mge_plugin.data.audio import AudioError, read_audio, rms_db, write_wav
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import Song
from mge_plugin.evaluation.metrics import (
    ClapScore,
    Embedding,
    Gaussian,
    frechet_distance,
    log_mel_l1,
    sdr,
    si_sdr,
    spectral_distance,
)
from mge_plugin.evaluation.segments import Estimate, Heard, Segment, listen
from mge_plugin.evaluation.systems import System
from mge_plugin.files import file_stem

logger = logging.getLogger(__name__)

_VERSION = 2  # of what is scored; what an older one scored is scored anew
SILENT_DB = -120.0  # what silence is counted as, so that its mean can be taken


def score(heard: Heard, estimate: Estimate, clap: ClapScore | None = None) -> dict[str, float]:
    """By name; of what is absent only how loud it is."""
    segment, audio = heard.segment, estimate.audio
    if segment.absent:
        return {"silence_error_db": level(audio) - level(heard.mixture)}
    if segment.task in ("generate", "compose"):
        found = {"level_db": level(audio)}
    else:
        found = _against_truth(heard, audio)
    if estimate.rest is not None:
        found["mixture_consistency_db"] = consistency(heard.mixture, audio, estimate.rest)
    return found if clap is None else found | {"clap_score": clap.score(segment, audio)}


def _against_truth(heard: Heard, audio: np.ndarray) -> dict[str, float]:
    """Music from nothing has no truth; here there is one."""
    found = {
        "log_mel_l1": log_mel_l1(audio, heard.truth, heard.segment.sample_rate),
        "spectral_distance": spectral_distance(audio, heard.truth),
        "level_db": level(audio) - level(heard.mixture),
    }
    if heard.segment.task == "extract":
        found |= {"si_sdr": si_sdr(audio, heard.truth), "sdr": sdr(audio, heard.truth)}
    return found


def consistency(mixture: np.ndarray, source: np.ndarray, submixture: np.ndarray) -> float:
    """Level of what both parts leave over of the mixture, against the mixture, dB."""
    return level(mixture - (submixture + source)) - level(mixture)


def level(audio: np.ndarray) -> float:
    """RMS in dBFS, of silence -120."""
    return max(SILENT_DB, float(rms_db(audio)))


BETTER = {
    "log_mel_l1": "lower",
    "spectral_distance": "lower",
    "si_sdr": "higher",
    "sdr": "higher",
    "silence_error_db": "lower",
    "clap_score": "higher",
    "mixture_consistency_db": "lower",
    "fad": "lower",
    "similarity": "higher",
}


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
            told = json.dumps([key, getattr(system, "key", None), by, _VERSION])
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


def fad_table(
    out: Path, scored: Sequence[Scored], embedding: Embedding
) -> dict[str, dict[str, dict[str, Any]]]:
    """By system and group: the distance, items, dimension, ranks and the embedding's facts."""
    groups: dict[tuple[str, str], list[Segment]] = {}
    for s in scored:
        if s.failed is None and not s.segment.absent:
            groups.setdefault((s.system, s.segment.group), []).append(s.segment)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for (system, group), segments in tqdm(groups.items(), desc="FAD", unit="set"):
        if len(segments) < 2:
            raise ValueError(f"FAD: {system}, {group}: expected 2 segments or more, found 1")
        pair = [_gaussian(out, name, segments, embedding) for name in (system, REFERENCE)]
        found = frechet_distance(*pair)
        table.setdefault(system, {})[group] = found.described() | dict(embedding.told)
    return table


def _gaussian(
    out: Path, system: str, segments: Sequence[Segment], embedding: Embedding
) -> Gaussian:
    gaussian = None
    for segment in segments:
        embedded = embedding.embed(*read_audio(audio_path(out, system, segment)))
        gaussian = gaussian or Gaussian(embedded.shape[1])
        gaussian.add(embedded)
    return gaussian
