"""The paper's protocol (section 3, appendix E), from a dataset config to a page of results."""

import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.corpora.verify import index_config
from mge_plugin.data.latents.encode import Ranks
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation import systems
from mge_plugin.evaluation.metrics import ConditionerEmbedding, open_embedding
from mge_plugin.evaluation.report import write_report
from mge_plugin.evaluation.run import Evaluation, collect, fad_table
from mge_plugin.evaluation.segments import (
    GIVEN,
    SCORED_TASKS,
    Segment,
    draw_segments,
    load_segments,
    save_segments,
)
from mge_plugin.files import checkpoint_fingerprint, file_stem
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling

logger = logging.getLogger(__name__)

_WITH_FAD = ("generate", "add", "compose")
LABELS = ("bass", "drums", "guitar", "piano")  # the paper's S_A


@dataclass(frozen=True)
class Protocol:
    """The options of `mge evaluate` that do not concern the model."""

    task: str
    dataset_config: Path
    out: Path
    labels: tuple[str, ...] = LABELS
    count: int = 300  # segments per group
    segments_file: Path | None = None
    seconds: float | None = None  # length of a segment; None is the model's window
    seed: int = 0
    batch: int = 8
    demucs: str | None = None  # a Demucs model to score too
    estimates: tuple[Path, ...] = ()  # folders of other systems' estimates
    embedding: str = "mel"  # of FAD
    embedding_weights: Path | None = None
    unconditional: bool = False  # generate: without prompts
    given: str = "labels"  # add: the other labels, or "rest": all other stems of the song

    def __post_init__(self) -> None:
        problems = []
        if self.task not in SCORED_TASKS:
            known = ", ".join(SCORED_TASKS)
            problems.append(f"task: expected one of {known}, found {self.task!r}")
        if self.given not in GIVEN:
            problems.append(f"given: expected {' or '.join(GIVEN)}, found {self.given!r}")
        for option, only in (("demucs", "extract"), ("unconditional", "generate")):
            if getattr(self, option) and self.task != only:
                problems.append(f"{option}: only for task {only!r}, found {self.task!r}")
        if problems:
            raise ConfigError(*problems)

    def run(self, pipeline: Pipeline, ckpt: Path, sampling: Sampling) -> Path | None:
        """Score everything; rank 0 writes the page when all ranks' scores are there."""
        demucs = None if self.demucs is None else systems.open_demucs(self.demucs, pipeline.device)
        embedding = None
        if self.embedding != "none" and self.task in _WITH_FAD:
            embedding = open_embedding(
                self.embedding, self.embedding_weights, pipeline.model, pipeline.device
            )
        corpora = self._corpora()
        segments = self._segments(corpora, pipeline)
        if embedding is not None:
            _check_groups(segments)
        scored_systems = self._systems(pipeline, sampling, segments, corpora, demucs)
        clap = ConditionerEmbedding.of(pipeline.model, pipeline.device)
        ranks = Ranks.of(os.environ)
        shape = (pipeline.channels, self.batch, ranks.rank, ranks.world)
        evaluation = Evaluation(
            self.out, segments, corpora, *shape, None if self.unconditional else clap
        )
        options = asdict(sampling) | asdict(systems.RAW)
        key: dict[str, Any] = {"ckpt": checkpoint_fingerprint(ckpt), "sampling": options}
        key |= {"unconditional": True} if self.unconditional else {}
        evaluation.run(scored_systems, json.dumps(key, sort_keys=True))
        if ranks.rank:
            return None
        scored = collect(self.out, segments)
        if missing := len(segments) * len(scored_systems) - len(scored):
            logger.warning("%d scores are missing: other ranks are still running", missing)
        fad = {} if embedding is None else fad_table(self.out, scored, embedding)
        facts = self._facts(ckpt, sampling, segments, evaluation.clap, demucs)
        return write_report(self.out, scored, fad, facts)

    def _corpora(self) -> list[Corpus]:
        corpora, problems = index_config(self.dataset_config)
        if problems:
            raise ConfigError(*(f"{self.dataset_config}: {problem}" for problem in problems))
        for corpus in corpora:
            corpus.report.log(corpus.config.id)
        return corpora

    def _segments(self, corpora: list[Corpus], pipeline: Pipeline) -> list[Segment]:
        """The segments of a file, of an earlier run in the same folder, or newly drawn ones."""
        path = self.out / "segments.json"
        if self.segments_file is not None or path.is_file():
            file = self.segments_file or path
            segments = load_segments(file)
            if other := {s.task for s in segments} - {self.task}:
                raise ConfigError(f"{file}: task: expected {self.task}, found {', '.join(other)}")
        else:
            rate, seconds = pipeline.sample_rate, self.seconds
            samples = pipeline.window if seconds is None else round(seconds * rate)
            form = Format(rate, samples, pipeline.channels)
            drawing = (self.labels, self.count, self.seed, self.given)
            segments = draw_segments(self.task, corpora, form, *drawing)
        if self.segments_file is not None or not path.is_file():
            save_segments(segments, path)
        return segments

    def _systems(
        self,
        pipeline: Pipeline,
        sampling: Sampling,
        segments: list[Segment],
        corpora: list[Corpus],
        demucs: systems.Demucs | None,
    ) -> list[systems.System]:
        """The model, then the floors and ceilings of the task, then other systems."""
        trip = systems.RoundTrip(pipeline)
        bounds: dict[str, list[systems.System]] = {
            "extract": [systems.Mixture(), systems.Silence(), trip, systems.RatioMask()],
            "add": [systems.Silence(), systems.OtherStem(segments, corpora), trip],
        }
        found: list[systems.System] = [systems.Model(pipeline, sampling, self.unconditional)]
        found += bounds.get(self.task, [trip])
        found += [systems.Estimates(folder) for folder in self.estimates]
        found += [] if demucs is None else [demucs]
        names = Counter(file_stem(system.name) for system in found)
        if twice := sorted(name for name, count in names.items() if count > 1):
            raise ConfigError(f"estimates: every folder needs its own name, found {twice} twice")
        return found

    def _facts(
        self,
        ckpt: Path,
        sampling: Sampling,
        segments: list[Segment],
        clap: ConditionerEmbedding | None,
        demucs: systems.Demucs | None,
    ) -> dict[str, str]:
        facts = {
            "Task": self.task,
            "Weights": f"{ckpt.name} {checkpoint_fingerprint(ckpt)[:12]}",
            "Test set": self.dataset_config.name,
            "Segments": str(len(segments)),
            "Sampling": f"{sampling.sampler}, {sampling.steps} steps, {sampling.schedule}",
            "Guidance": str(sampling.cfg_scale),
            "Seed": str(sampling.seed),
        }
        if self.unconditional:
            facts["Prompt"] = "none"
        if clap is not None:
            facts["CLAP score"] = f"by {clap.name}"
        if demucs is not None:
            labels = ", ".join(demucs.sources)
            facts["Demucs"] = f"{demucs.title}, separates {labels}; its averages are over these"
        return facts


def _check_groups(segments: list[Segment]) -> None:
    """FAD needs two segments per group: a missing one is reported before anything is computed."""
    counts = Counter(segment.group for segment in segments if not segment.absent)
    if single := sorted(group for group, count in counts.items() if count < 2):
        raise ConfigError(
            f"segments: FAD needs 2 or more per group, found 1 of {', '.join(single)}; "
            "raise --segments or take --embedding none"
        )
