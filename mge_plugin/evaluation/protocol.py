"""The paper's protocol from a dataset config to a page (section 3, appendix E)."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.corpora.verify import index_config
from mge_plugin.data.latents.encode import Ranks
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation.metrics import ClapScore, hearing, open_embedding
from mge_plugin.evaluation.report import write_report
from mge_plugin.evaluation.run import Evaluation, collect, fad_table
from mge_plugin.evaluation.segments import Segment, draw_segments, load_segments, save_segments
from mge_plugin.evaluation.systems import (
    Demucs,
    Estimates,
    Mixture,
    Model,
    OtherStem,
    RatioMask,
    RoundTrip,
    Silence,
    System,
    open_demucs,
)
from mge_plugin.files import checkpoint_fingerprint, file_stem
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling

logger = logging.getLogger(__name__)

_WITH_FAD = ("generate", "add", "compose")


@dataclass(frozen=True)
class Protocol:
    """What is asked of `mge evaluate`."""

    task: str
    dataset_config: Path
    out: Path
    labels: tuple[str, ...]
    count: int = 300
    segments_file: Path | None = None
    seconds: float | None = None
    seed: int = 0
    batch: int = 8
    demucs: str | None = None  # a model of Demucs to judge too

    def __post_init__(self) -> None:
        if self.demucs is not None and self.task != "extract":
            raise ConfigError(f"demucs: it can only extract, found task {self.task!r}")

    def run(
        self,
        pipeline: Pipeline,
        ckpt: Path,
        sampling: Sampling,
        folders: tuple[Path, ...] = (),
        embedding: str = "mel",
        weights: Path | None = None,
    ) -> Path | None:
        """Score everything; rank 0 writes the page when all ranks' scores are there."""
        demucs = None if self.demucs is None else open_demucs(self.demucs, pipeline.device)
        corpora = self._corpora()
        segments = self._segments(corpora, pipeline)
        systems = self._systems(pipeline, sampling, folders, segments, corpora)
        systems = _distinct(systems if demucs is None else [*systems, demucs])
        ears = None
        if embedding != "none" and self.task in _WITH_FAD:
            ears = open_embedding(embedding, weights, pipeline.model, pipeline.device)
        clap = _clap_score(pipeline)
        ranks = Ranks.of(os.environ)
        shape = (pipeline.channels, self.batch, ranks.rank, ranks.world)
        evaluation = Evaluation(self.out, segments, corpora, *shape, clap)
        told = {"ckpt": checkpoint_fingerprint(ckpt), "sampling": sampling.described()}
        evaluation.run(systems, json.dumps(told, sort_keys=True))
        if ranks.rank:
            return None
        scored = collect(self.out, segments)
        if missing := len(segments) * len(systems) - len(scored):
            logger.warning("%d scores are not there yet: other ranks are at work", missing)
        fad = {} if ears is None else fad_table(self.out, scored, ears)
        facts = self._facts(ckpt, sampling, segments) | _told(clap, demucs)
        return write_report(self.out, scored, fad, facts)

    def _corpora(self) -> list[Corpus]:
        corpora, problems = index_config(self.dataset_config)
        if problems:
            raise ConfigError(*(f"{self.dataset_config}: {problem}" for problem in problems))
        for corpus in corpora:
            corpus.report.log(corpus.config.id)
        return corpora

    def _segments(self, corpora: list[Corpus], pipeline: Pipeline) -> list[Segment]:
        """Those of a file, of an earlier run in the same folder, or new ones, which are saved."""
        path = self.out / "segments.json"
        if self.segments_file is not None:
            segments = load_segments(self.segments_file)
        elif path.is_file():
            return load_segments(path)
        else:
            window = pipeline.engine.frames * pipeline.engine.ratio
            samples = window if self.seconds is None else round(self.seconds * pipeline.sample_rate)
            form = Format(pipeline.sample_rate, samples, pipeline.channels)
            segments = draw_segments(self.task, corpora, form, self.labels, self.count, self.seed)
        save_segments(segments, path)
        return segments

    def _systems(
        self,
        pipeline: Pipeline,
        sampling: Sampling,
        folders: tuple[Path, ...],
        segments: list[Segment],
        corpora: list[Corpus],
    ) -> list[System]:
        """The model, then floors and ceilings that the task has, then others' estimates."""
        systems: list[System] = [Model(pipeline, sampling)]
        if self.task == "extract":
            systems += [Mixture(), Silence(), RoundTrip(pipeline), RatioMask()]
        elif self.task == "add":
            systems += [Silence(), OtherStem(segments, corpora), RoundTrip(pipeline)]
        else:
            systems += [RoundTrip(pipeline)]
        return [*systems, *(Estimates(folder) for folder in folders)]

    def _facts(self, ckpt: Path, sampling: Sampling, segments: list[Segment]) -> dict[str, str]:
        return {
            "Task": self.task,
            "Weights": f"{ckpt.name} {checkpoint_fingerprint(ckpt)[:12]}",
            "Test set": self.dataset_config.name,
            "Segments": str(len(segments)),
            "Sampling": f"{sampling.sampler}, {sampling.steps} steps, {sampling.schedule}",
            "Guidance": str(sampling.cfg_scale),
            "Seed": str(sampling.seed),
        }


def _clap_score(pipeline: Pipeline) -> ClapScore | None:
    """None if the model's conditioner cannot hear."""
    ears = hearing(pipeline.model, pipeline.device)
    return None if ears is None else ClapScore(ears)


def _told(clap: ClapScore | None, demucs: Demucs | None) -> dict[str, str]:
    """Facts of what not every run has."""
    facts = {} if clap is None else {"CLAP score": f"by {clap.name}"}
    if demucs is not None:
        labels = ", ".join(demucs.sources)
        facts["Demucs"] = f"{demucs.title}, of {labels}; its averages are of these"
    return facts


def _distinct(systems: list[System]) -> list[System]:
    """Two of one name would write one file."""
    names = [file_stem(system.name) for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"estimates: every folder needs a name of its own, found {twice} twice")
    return systems
