"""The paper's protocol (section 3, appendix E), from a dataset config to a page of results."""

import json
import logging
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.corpora.verify import index_config
from mge_plugin.data.latents.encode import Ranks
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation import EvaluationOptions, systems
from mge_plugin.evaluation.metrics import ConditionerEmbedding, open_embedding
from mge_plugin.evaluation.report import write_report
from mge_plugin.evaluation.run import Evaluation, collect, fad_table
from mge_plugin.evaluation.segments import Segment, draw_segments, load_segments, save_segments
from mge_plugin.files import checkpoint_fingerprint, file_stem
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling

logger = logging.getLogger(__name__)

_WITH_FAD = ("generate", "add", "compose")


def evaluate(
    options: EvaluationOptions, pipeline: Pipeline, ckpt: Path, sampling: Sampling
) -> Path | None:
    """Score everything; rank 0 returns the page, written when all ranks' scores are there."""
    device, demucs = pipeline.device, None
    if options.demucs is not None:
        demucs = systems.open_demucs(options.demucs, device)
    embedding = None
    if options.embedding != "none" and options.task in _WITH_FAD:
        weights = options.embedding_weights
        embedding = open_embedding(options.embedding, weights, pipeline.model, device)
    corpora, problems = index_config(options.dataset_config)
    if problems:
        raise ConfigError(*(f"{options.dataset_config}: {problem}" for problem in problems))
    for corpus in corpora:
        corpus.report.log(corpus.config.id)
    segments = _segments(options, corpora, pipeline, sampling.seed)
    if embedding is not None:
        _check_groups(segments)
    found = _systems(options, systems.Model(pipeline, sampling, options.unconditional))
    found += [systems.OtherStem(segments, corpora)] if options.task == "add" else []
    found += [] if demucs is None else [demucs]
    _check_names(found)
    clap = (
        None if options.unconditional else ConditionerEmbedding.of(pipeline.model, pipeline.device)
    )
    ranks = Ranks.of(os.environ)
    shape = (pipeline.channels, options.batch, ranks.rank, ranks.world)
    key: dict[str, Any] = {"ckpt": checkpoint_fingerprint(ckpt)}
    key |= {"sampling": asdict(sampling) | asdict(systems.RAW)}
    key |= {"unconditional": True} if options.unconditional else {}
    Evaluation(options.out, segments, corpora, *shape, clap).run(
        found, json.dumps(key, sort_keys=True)
    )
    if ranks.rank:
        return None
    scored = collect(options.out, segments)
    if missing := len(segments) * len(found) - len(scored):
        logger.warning("%d scores are missing: other ranks are still running", missing)
    fad = {} if embedding is None else fad_table(options.out, scored, embedding)
    facts = {
        "Task": options.task,
        "Weights": f"{ckpt.name} {checkpoint_fingerprint(ckpt)[:12]}",
        "Test set": options.dataset_config.name,
        "Segments": str(len(segments)),
        "Sampling": f"{sampling.sampler}, {sampling.steps} steps, {sampling.schedule}",
        "Guidance": str(sampling.cfg_scale),
        "Seed": str(sampling.seed),
    }
    facts |= {"Prompt": "none"} if options.unconditional else {}
    facts |= {} if clap is None else {"CLAP score": f"by {clap.name}"}
    facts |= {} if demucs is None else {"Demucs": demucs.described()}
    return write_report(options.out, scored, fad, facts)


def _segments(
    options: EvaluationOptions, corpora: list[Corpus], pipeline: Pipeline, seed: int
) -> list[Segment]:
    """The segments of a file, of an earlier run in the same folder, or newly drawn ones."""
    path = options.out / "segments.json"
    if options.segments_file is None and path.is_file():
        return _load(path, options.task)
    if options.segments_file is not None:
        segments = _load(options.segments_file, options.task)
    else:
        rate, seconds = pipeline.sample_rate, options.seconds
        samples = pipeline.window if seconds is None else round(seconds * rate)
        form = Format(rate, samples, pipeline.channels)
        drawing = (options.label, options.segments, seed, options.given)
        segments = draw_segments(options.task, corpora, form, *drawing)
    save_segments(segments, path)
    return segments


def _load(path: Path, task: str) -> list[Segment]:
    segments = load_segments(path)
    if other := {segment.task for segment in segments} - {task}:
        raise ConfigError(f"{path}: task: expected {task}, found {', '.join(other)}")
    return segments


def _systems(options: EvaluationOptions, model: systems.Model) -> list[systems.System]:
    """The model, then the floors and ceilings of the task, then folders of estimates."""
    bounds: dict[str, list[systems.System]] = {
        "extract": [systems.Mixture(), systems.Silence(), systems.RatioMask()],
        "add": [systems.Silence()],
    }
    folders = [systems.Estimates(folder) for folder in options.estimates]
    trip = systems.RoundTrip(model.pipeline)
    return [model, *bounds.get(options.task, []), trip, *folders]


def _check_names(found: list[systems.System]) -> None:
    """Two systems of one name would write one file."""
    names = Counter(file_stem(system.name) for system in found)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ConfigError(f"estimates: every folder needs its own name, found {twice} twice")


def _check_groups(segments: list[Segment]) -> None:
    """FAD needs two segments per group: a missing one is reported before anything is computed."""
    counts = Counter(segment.group for segment in segments if not segment.absent)
    if single := sorted(group for group, count in counts.items() if count < 2):
        raise ConfigError(
            f"segments: FAD needs 2 or more per group, found 1 of {', '.join(single)}; "
            "raise --segments or take --embedding none"
        )
