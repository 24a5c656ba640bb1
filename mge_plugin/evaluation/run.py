"""Score every segment with every system; each rank takes its share and saves each score at once.

OUT/segments.json               the segments
OUT/scores/SYSTEM.rank0.jsonl   one line per segment; an interrupted run resumes after the last one
OUT/audio/SYSTEM/SEGMENT.wav    estimates; OUT/audio/reference/... what they are compared with
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mge_plugin.data.audio import AudioError, read_audio, write_wav
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import Song
from mge_plugin.evaluation import metrics
from mge_plugin.evaluation.metrics import ConditionerEmbedding, Embedding, Gaussian, level
from mge_plugin.evaluation.segments import Estimate, Excerpt, Segment, read_excerpt
from mge_plugin.evaluation.systems import System
from mge_plugin.files import file_stem
from mge_plugin.prompts import label_prompt

logger = logging.getLogger(__name__)

_VERSION = 3  # of the scores; older ones are computed again
RATIO_DB = (-60.0, 120.0)  # what -inf and +inf dB of a ratio count as, so that a mean exists
_KEYS = {"key", "segment", "failed", "scores"}  # of a line
REFERENCE = "reference"  # in place of a system's name


def score(
    excerpt: Excerpt, estimate: Estimate, clap: ConditionerEmbedding | None = None
) -> dict[str, float | None]:
    """Metrics by name, None where one has no value; for absent targets only the level."""
    segment, audio = excerpt.segment, estimate.audio
    if segment.absent:
        return {"silence_error_db": level(audio) - level(excerpt.mixture)}
    if segment.task in ("generate", "compose"):
        found: dict[str, float | None] = {"level_db": level(audio)}
    else:
        found = _against_truth(excerpt, audio)
    if estimate.rest is not None:
        found["mixture_consistency_db"] = consistency(excerpt.mixture, audio, estimate.rest)
    if clap is not None:
        text = label_prompt(segment.wanted)
        found["clap_score"] = clap.similarity(text, audio, segment.sample_rate)
    return found


def _against_truth(excerpt: Excerpt, audio: np.ndarray) -> dict[str, float | None]:
    """Metrics of extract and add, which have a true answer."""
    truth = excerpt.truth
    found: dict[str, float | None] = {
        "log_mel_l1": metrics.log_mel_l1(audio, truth, excerpt.segment.sample_rate),
        "spectral_distance": metrics.spectral_distance(audio, truth),
        "level_db": level(audio) - level(excerpt.mixture),
    }
    if excerpt.segment.task == "extract":
        ratios = {
            "si_sdr": metrics.si_sdr(audio, truth),
            "sdr": metrics.sdr(audio, truth),
            "si_sar": metrics.si_sar(audio, truth, excerpt.mixture - truth),
        }
        found |= {name: _bounded(value) for name, value in ratios.items()}
    return found


def _bounded(ratio: float) -> float | None:
    return None if math.isnan(ratio) else min(max(ratio, RATIO_DB[0]), RATIO_DB[1])


def consistency(mixture: np.ndarray, source: np.ndarray, submixture: np.ndarray) -> float:
    """Level of mixture - (submixture + source) against the mixture, dB."""
    return level(mixture - (submixture + source)) - level(mixture)


@dataclass(frozen=True)
class Scored:
    """One system's metrics on one segment, or why there are none."""

    system: str
    segment: Segment
    scores: Mapping[str, float | None] = field(default_factory=dict)
    failed: str | None = None
    silent: bool = False  # whether the estimate is silent although the target sounds


@dataclass(frozen=True)
class Evaluation:
    """Segments to score, in batches, and the folder that the scores go to."""

    out: Path
    segments: Sequence[Segment]
    corpora: Sequence[Corpus]
    channels: int
    batch: int = 4
    rank: int = 0
    world: int = 1
    clap: ConditionerEmbedding | None = None  # None if the model's conditioner embeds texts only

    @cached_property
    def _songs(self) -> dict[tuple[str, str], Song]:
        return {(c.config.id, song.id): song for c in self.corpora for song in c.songs}

    def run(self, systems: Sequence[System], key: str) -> None:
        """Score this rank's share; segments that an earlier run scored with `key` are skipped.

        A system that its name does not identify (weights) has a `key` of its own.
        """
        for system in systems:
            clap = None if self.clap is None else self.clap.name
            identity = json.dumps([key, getattr(system, "key", None), clap, _VERSION])
            self._run(system, hashlib.sha256(identity.encode()).hexdigest()[:16])

    def _run(self, system: System, key: str) -> None:
        path = self.out / "scores" / f"{file_stem(system.name)}.rank{self.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        last = {entry["segment"]: entry["key"] for entry in _lines(path)}  # as the saved audio is
        share = self.segments[self.rank :: self.world]
        left = [segment for segment in share if last.get(segment.id) != key]
        _end_last_line(path)
        with path.open("a") as file, tqdm(total=len(left), desc=system.name, unit="segment") as bar:
            for first in range(0, len(left), self.batch):
                batch = left[first : first + self.batch]
                for scored in self._score(system, batch):
                    line: dict[str, Any] = {"key": key, "segment": scored.segment.id}
                    line |= {"failed": scored.failed, "silent": scored.silent}
                    line |= {"scores": dict(scored.scores)}
                    file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                bar.update(len(batch))

    def _score(self, system: System, segments: Sequence[Segment]) -> Iterator[Scored]:
        excerpts, failed = [], []
        for segment in segments:
            try:
                song = self._songs[segment.corpus, segment.song]
                excerpts.append(read_excerpt(segment, song, self.channels))
            except KeyError:
                reason = f"cannot be read: no song {segment.song} in corpus {segment.corpus}"
                failed.append(Scored(system.name, segment, failed=reason))
            except AudioError as error:
                failed.append(Scored(system.name, segment, failed=f"cannot be read: {error}"))
        yield from failed
        for excerpt, estimate in self._estimates(system, excerpts):
            if isinstance(estimate, Estimate) and not np.isfinite(estimate.audio).all():
                estimate = "the estimate has NaN or infinite samples"
            if isinstance(estimate, str):
                logger.warning("%s: %s: %s", system.name, excerpt.segment.id, estimate)
                yield Scored(system.name, excerpt.segment, failed=estimate)
                continue
            self._save(system.name, excerpt, estimate.audio)
            silent = not excerpt.segment.absent and level(estimate.audio) <= metrics.SILENT_DB
            scores = score(excerpt, estimate, self.clap)
            yield Scored(system.name, excerpt.segment, scores, silent=silent)

    def _estimates(
        self, system: System, excerpts: Sequence[Excerpt]
    ) -> Iterator[tuple[Excerpt, Estimate | str]]:
        """Each estimate, or why there is none; after a failure each is tried by itself."""
        try:
            yield from zip(excerpts, system.estimate(excerpts), strict=True)
        except (ValueError, OSError):
            for excerpt in excerpts:
                try:
                    yield excerpt, system.estimate([excerpt])[0]
                except (ValueError, OSError) as error:
                    yield excerpt, str(error)

    def _save(self, system: str, excerpt: Excerpt, estimate: np.ndarray) -> None:
        """Write the audio that FAD is measured on and that the page plays."""
        segment = excerpt.segment
        reference = excerpt.truth if segment.task == "extract" else excerpt.mixture
        audio = excerpt.given + estimate if segment.task == "add" else estimate
        write_wav(audio_path(self.out, system, segment), audio, segment.sample_rate)
        path = audio_path(self.out, REFERENCE, segment)
        if not path.is_file():
            write_wav(path, reference, segment.sample_rate)


def collect(out: Path, segments: Sequence[Segment]) -> list[Scored]:
    """The last score of every segment and system, from the files of all ranks; the model first."""
    by_id = {segment.id: segment for segment in segments}
    found: dict[tuple[str, str], Scored] = {}
    for path in sorted((out / "scores").glob("*.jsonl")):
        system = path.name.split(".rank")[0]
        for entry in _lines(path):
            if segment := by_id.get(entry["segment"]):
                rest = entry["scores"], entry["failed"], entry.get("silent", False)
                found[system, segment.id] = Scored(system, segment, *rest)
    return sorted(found.values(), key=lambda s: s.system != "model")


def audio_path(out: Path, system: str, segment: Segment) -> Path:
    """The file of a system's audio of a segment."""
    folders = [file_stem(part) for part in segment.id.split("/")]
    return out.joinpath("audio", file_stem(system), *folders).with_suffix(".wav")


def _end_last_line(path: Path) -> None:
    """Add a newline after a line that a kill has cut, so that it does not swallow the next."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a score file; others (empty, cut by a kill, not strict JSON) are skipped."""
    if not path.is_file():
        return
    for line in filter(str.strip, path.read_text(errors="replace").splitlines()):
        try:
            entry = json.loads(line, parse_constant=_refuse)
            if not isinstance(entry, dict) or not entry.keys() >= _KEYS:
                raise ValueError("not a score")
            yield entry
        except ValueError:
            logger.warning("%s: a broken line is ignored, its segment is scored again", path)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not strict JSON")


def fad_table(
    out: Path, scored: Sequence[Scored], embedding: Embedding
) -> dict[str, dict[str, dict[str, Any]]]:
    """FAD of saved audio by system and group, with items, dimension, ranks and embedding.

    Embeddings are computed from the files every time: nothing is cached under a file's name. A
    group of fewer than two estimates has no covariance and is left out with a warning.
    """
    groups: dict[tuple[str, str], list[Segment]] = {}
    for s in scored:
        if s.failed is None and not s.segment.absent:
            groups.setdefault((s.system, s.segment.group), []).append(s.segment)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for (system, group), segments in tqdm(groups.items(), desc="FAD", unit="set"):
        if len(segments) < 2:
            logger.warning("FAD: %s, %s: left out, needs 2 segments, found 1", system, group)
            continue
        pair = [_gaussian(out, name, segments, embedding) for name in (system, REFERENCE)]
        distance = metrics.frechet_distance(*pair)
        table.setdefault(system, {})[group] = distance | dict(embedding.facts)
    return table


def _gaussian(
    out: Path, system: str, segments: Sequence[Segment], embedding: Embedding
) -> Gaussian:
    paths = (audio_path(out, system, segment) for segment in segments)
    first, *rest = (embedding.embed(*read_audio(path)) for path in paths)
    gaussian = Gaussian.of(first)
    for embedded in rest:
        gaussian.add(embedded)
    return gaussian
