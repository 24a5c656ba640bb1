"""The paper's ablations at small scale: Markdown tables of samplings and of short trainings.

python benchmarks/ablations.py sampling --model DIR --dataset-config test.json --out DIR
python benchmarks/ablations.py training --model-config dit.json --latents latents.json \
    --autoencoder autoencoder.safetensors --dataset-config test.json --steps 2000 --out DIR

sampling  one model (model.json, model.safetensors). Extraction by sampler, by RePaint's U at equal
          calls of the network, and by guidance; generation of a mixture in one stage, and label by
          label.
training  variants of a config (a change each), trained on latents from the same seed for the same
          number of steps. One that never saw a given track is judged by RePaint, the others by
          DDIM, at equal calls of the network.

All rows of a table are judged on the same windows, by `mge evaluate`'s figures. "to the first" is
the mean of the windows' differences to the first row. Brackets are 95 % intervals by bootstrap over
songs. Silence error is of windows whose song lacks what is asked for. Each row is kept in OUT as
soon as it is there; a run that was stopped goes on.
"""

import argparse
import copy
import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.corpora.verify import index_config
from mge_plugin.data.triplets import Format, SourceConfig
from mge_plugin.demo import INSTRUMENTS
from mge_plugin.devices import pick
from mge_plugin.evaluation.metrics import interval, open_embedding
from mge_plugin.evaluation.report import Cell, table
from mge_plugin.evaluation.run import Evaluation, Scored, collect, fad_table
from mge_plugin.evaluation.segments import Excerpt, draw_segments, load_segments, save_segments
from mge_plugin.evaluation.systems import Mixture, Model, RoundTrip, Silence, System
from mge_plugin.files import checkpoint_fingerprint, file_stem, write_file
from mge_plugin.inference.pipeline import Pipeline, load
from mge_plugin.inference.request import Sampling
from mge_plugin.models.dit import DiTConfig
from mge_plugin.standins.fit import fit_denoiser
from mge_plugin.training.config import TrainingConfig, training_config

RESAMPLINGS = (1, 2, 4, 10)  # U, each in so many steps less
GUIDANCES = (1.0, 2.0, 4.0, 8.0)  # cfg_scale
SOLVER, SOLVER_STEPS = "dpm-solver++", 20
METRIC, SILENCE = "log_mel_l1", "silence_error_db"

NORM = "model_config.model.diffusion.config.norm_type"
DROPOUT = "model_config.training.cfg_dropout_prob"
PATTERNS = "model_config.training.timesteps.patterns"
ABSENT = "dataset_config.source.p_absent"
DEFAULTS = {
    NORM: DiTConfig.norm_type,
    DROPOUT: TrainingConfig.cfg_dropout_prob,
    ABSENT: SourceConfig.p_absent,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "groupnorm": {NORM: "groupnorm"},
    "layernorm": {NORM: "layernorm"},
    "dropout-0.1": {DROPOUT: 0.1},
    "dropout-0.5": {DROPOUT: 0.5},
    "non-adaptive": {PATTERNS: {"none": 1, "mixture": 0, "submixture": 0, "source": 0}},
    "absent-on": {ABSENT: 0.1},
    "absent-off": {ABSENT: 0.0},
}


def digest(text: str) -> str:
    """Tells settings from others in a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Timed:
    """A system under a row's name, and how long it takes."""

    def __init__(self, name: str, system: System) -> None:
        self.name, self.system = name, system
        self.seconds, self.windows = 0.0, 0

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Any]:
        start = time.perf_counter()
        estimates = self.system.estimate(excerpts)
        self.seconds += time.perf_counter() - start
        self.windows += len(excerpts)
        return estimates

    @property
    def a_window(self) -> float | None:
        """Seconds; None where nothing was left to do."""
        return self.seconds / self.windows if self.windows else None


class OneStage:
    """The whole mixture at once of windows that are asked for label by label."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Any]:
        return self.model.estimate(
            [replace(e, segment=replace(e.segment, task="generate")) for e in excerpts]
        )


@dataclass(frozen=True)
class Row:
    """A system's scores on all windows."""

    name: str
    scored: Sequence[Scored]
    seconds: float | None  # a window

    @property
    def windows(self) -> str:
        """The head of a table's first column."""
        return f"{len(self.scored)} windows"

    def cells(self, metric: str) -> Mapping[str, Cell]:
        """By label, the average last."""
        return next(iter(table(self.scored, metric).values()), {})

    def to(self, first: "Row") -> str:
        """The mean of the windows' differences to another row, and its interval over songs."""
        theirs = {s.segment.id: s.scores[METRIC] for s in first.scored if METRIC in s.scores}
        own = [s for s in self.scored if METRIC in s.scores and s.segment.id in theirs]
        if self.name == first.name or not own:
            return ""
        differences = [s.scores[METRIC] - theirs[s.segment.id] for s in own]
        low, high = interval(differences, [f"{s.segment.corpus}/{s.segment.song}" for s in own])
        return f"{np.mean(differences):+.2f} [{low:+.2f}, {high:+.2f}]"

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        means = {metric: self.cells(metric) for metric in (METRIC, SILENCE)}
        plain = {m: {group: asdict(c) for group, c in cells.items()} for m, cells in means.items()}
        return {"name": self.name, "seconds": self.seconds, "means": plain}


class Bench:
    """Systems judged on the same windows of one task."""

    def __init__(
        self, task: str, config: Mapping[str, Any], asked: argparse.Namespace, count: int
    ) -> None:
        """`config` is the model's, whose window and rate are judged."""
        corpora, problems = index_config(asked.dataset_config)
        if problems:
            raise ConfigError(*(f"{asked.dataset_config}: {problem}" for problem in problems))
        channels = config.get("audio_channels", 2)
        form = Format(config["sample_rate"], config["sample_size"], channels)
        segments = draw_segments(task, corpora, form, asked.label, count, asked.seed)
        self.out = asked.out / task
        path = self.out / "segments.json"
        if path.is_file() and load_segments(path) != segments:
            raise ConfigError(f"{path}: has other windows than those asked for: take another --out")
        save_segments(segments, path)
        self.evaluation = Evaluation(self.out, segments, corpora, channels, asked.batch)

    def judge(self, name: str, system: System, told: Mapping[str, Any]) -> Row:
        """Score a system; what was scored as `told` (weights, sampling) already stays."""
        told = json.dumps(told, sort_keys=True)
        system = Timed(f"{file_stem(name)}_{digest(told)}", system)
        self.evaluation.run([system], told)
        every = collect(self.out, self.evaluation.segments)
        scored = [s for s in every if s.system == system.name]
        if failed := [s for s in scored if s.failed is not None]:
            raise ValueError(f"{name}: {len(failed)} windows failed: {failed[0].failed}")
        path = self.out / "rows" / f"{system.name}.json"
        seconds = read_json(path)["seconds"] if path.is_file() else system.a_window
        row = Row(name, scored, seconds)
        write_json(path, row.figures() | {"told": json.loads(told)})
        return row

    def model(self, name: str, pipeline: Pipeline, sampling: Sampling, ckpt: Path) -> Row:
        """Score a model."""
        told = {"ckpt": checkpoint_fingerprint(ckpt), "sampling": asdict(sampling)}
        return self.judge(name, Model(pipeline, sampling), told)


def named(sampling: Sampling) -> str:
    """What differs between rows."""
    passes = f" U = {sampling.resamplings}," if sampling.sampler == "repaint" else ""
    return f"{sampling.sampler},{passes} {sampling.steps} steps, guidance {sampling.cfg_scale:g}"


def repainted(calls: int, **options: Any) -> list[Sampling]:
    """RePaint with every U, the calls of the network shared out."""
    return [Sampling(calls // u, sampler="repaint", resamplings=u, **options) for u in RESAMPLINGS]


def extractions(calls: int, **options: Any) -> list[Sampling]:
    """Every way to extract; the first is DDIM with as many calls as RePaint."""
    solved = {"sampler": SOLVER} | options
    return [
        *(Sampling.paper(steps=steps, **options) for steps in dict.fromkeys((calls, 20, 50))),
        *repainted(calls, **options),
        *(Sampling(SOLVER_STEPS, cfg_scale, **solved) for cfg_scale in GUIDANCES),
    ]


def bounds(bench: Bench, pipeline: Pipeline, ckpt: Path) -> list[Row]:
    """The floors and the ceiling of extraction."""
    floors = [bench.judge(system.name, system, {}) for system in (Mixture(), Silence())]
    return [*floors, ceiling(bench, pipeline, ckpt)]


def ceiling(bench: Bench, pipeline: Pipeline, ckpt: Path) -> Row:
    """The truth through the autoencoder."""
    told = {"ckpt": checkpoint_fingerprint(ckpt)}
    return bench.judge(RoundTrip.name, RoundTrip(pipeline), told)


def generation_rows(bench: Bench, pipeline: Pipeline, ckpt: Path, **options: Any) -> list[Row]:
    """In one stage, then with as many calls as label by label takes; label by label; ceiling."""
    labels = max(len(segment.wanted) for segment in bench.evaluation.segments)
    told = {"ckpt": checkpoint_fingerprint(ckpt)}
    rows = []
    for steps, one_stage in (
        (SOLVER_STEPS, True),
        (SOLVER_STEPS * labels, True),
        (SOLVER_STEPS, False),
    ):
        sampling = Sampling(steps, sampler=SOLVER, **options)
        model = Model(pipeline, sampling)
        way, system = ("one stage", OneStage(model)) if one_stage else ("iterative", model)
        asked = told | {"sampling": asdict(sampling)}
        rows.append(bench.judge(f"{way}, {named(sampling)}", system, asked))
    return [*rows, ceiling(bench, pipeline, ckpt)]


def distances(bench: Bench, rows: Sequence[Row], pipeline: Pipeline) -> dict[str, dict[str, float]]:
    """FAD by embedding and row, of all windows together whatever is wanted of each."""
    scored = [s for r in rows for s in r.scored]
    hearing = any(c.supports_audio for c in pipeline.model.conditioner.conditioners.values())
    found = {}
    for name in ("mel", "clap")[: 1 + hearing]:
        ears = open_embedding(name, None, pipeline.model, pipeline.device)
        fads = fad_table(bench.out, scored, ears)
        title = f"FAD, {ears.facts['embedding']}"
        cells = {r.name: next(iter(fads[r.scored[0].system].values())) for r in rows}
        found[title] = {name: cell["fad"] for name, cell in cells.items()}
    return found


def extraction_table(rows: Sequence[Row]) -> str:
    """Log-Mel L1 by label and on average, silence error, seconds."""
    labels = [label for label in rows[0].cells(METRIC) if label != "Avg."]
    lines = []
    for row in rows:
        cells = row.cells(METRIC)
        means = [f"{cells[label].mean:.2f}" for label in labels]
        silence = row.cells(SILENCE).get("Avg.", "-")
        taken = "-" if row.seconds is None else f"{row.seconds:.2f}"
        lines.append([row.name, *means, cells["Avg."], row.to(rows[0]), silence, taken])
    ends = ("mean", "to the first", "silence error, dB", "s a window")
    return markdown([rows[0].windows, *labels, *ends], lines)


def generation_table(rows: Sequence[Row], fads: Mapping[str, Mapping[str, float]]) -> str:
    """FAD by embedding, and seconds."""
    lines = []
    for row in rows:
        taken = "-" if row.seconds is None else f"{row.seconds:.2f}"
        lines.append([row.name, *(f"{by_row[row.name]:.2f}" for by_row in fads.values()), taken])
    return markdown([rows[0].windows, *fads, "s a window"], lines)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all; NaN, which JSON has not, is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not np.isfinite(value) else value

    write_file(path, json.dumps(finite(content), indent=1).encode())


def opened(folder: Path, device: str) -> Pipeline:
    """A model that has run once, since the first time is slow."""
    pipeline = load(folder / "model.json", folder / "model.safetensors", device)
    pipeline.generate("the sound of the bass", sampling=Sampling(1))
    return pipeline


def sampling_tables(asked: argparse.Namespace) -> list[str]:
    """Ways to sample from one model."""
    config, ckpt = read_json(asked.model / "model.json"), asked.model / "model.safetensors"
    pipeline = opened(asked.model, asked.device)
    options = {"seed": asked.seed, "window_batch": asked.batch}
    extract = Bench("extract", config, asked, asked.segments)
    compose = Bench("compose", config, asked, asked.generated or asked.segments)
    rows = [
        extract.model(named(sampling), pipeline, sampling, ckpt)
        for sampling in extractions(asked.calls, **options)
    ]
    rows += bounds(extract, pipeline, ckpt)
    made = generation_rows(compose, pipeline, ckpt, **options)
    fads = distances(compose, made, pipeline)
    figures = {"extraction": [r.figures() for r in rows], "generation": fads}
    write_json(asked.out / "sampling.json", figures)
    return [extraction_table(rows), generation_table(made, fads)]


def settled(asked: argparse.Namespace) -> dict[str, Any]:
    """The baseline: both configs, what the variants change written out."""
    configs = {
        "model_config": read_json(asked.model_config),
        "dataset_config": read_json(asked.latents),
    }
    for path, default in DEFAULTS.items():
        section, key = place(configs, path)
        section.setdefault(key, default)
    training = configs["model_config"]["training"]
    training["pre_encoded"] = True
    for optimizer in training.get("optimizer_configs", {}).values():
        options = optimizer.get("scheduler", {}).get("config", {})
        if "total_steps" in options:
            options["total_steps"] = asked.steps + 1  # one more than is taken, or it raises
    return configs


def changed(configs: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configs with other values in their places."""
    configs = copy.deepcopy(dict(configs))
    for path, value in changes.items():
        section, key = place(configs, path)
        section[key] = value
    return configs


def place(configs: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The section and the key that a path names; sections that are not there are made."""
    *sections, key = path.split(".")
    for name in sections:
        configs = configs.setdefault(name, {})
    return configs, key


def train(name: str, configs: Mapping[str, Any], asked: argparse.Namespace) -> Path:
    """The folder of the trained variant; one that is there is not trained again."""
    told = [configs, asked.steps, asked.batch_size, asked.precision, asked.seed]
    folder = asked.out / "models" / f"{name}_{digest(json.dumps(told, sort_keys=True))}"
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(asked.seed)
        fit_denoiser(
            configs["model_config"],
            configs["dataset_config"],
            asked.autoencoder,
            folder,
            steps=asked.steps,
            batch_size=asked.batch_size,
            precision=asked.precision,
            device=pick(asked.device),
            every=min(asked.every, asked.steps),
        )
    return folder


def judged(
    bench: Bench, name: str, configs: Mapping[str, Any], asked: argparse.Namespace
) -> list[Row]:
    """A variant, trained if it is not there: by DDIM, or if it never saw a given track RePaint."""
    folder = train(name, configs, asked)
    ckpt = folder / "model.safetensors"
    pipeline = opened(folder, asked.device)
    options = {"cfg_scale": asked.cfg_scale, "seed": asked.seed, "window_batch": asked.batch}
    _, *given = training_config(configs["model_config"]).timesteps.patterns.values()
    if any(given):
        samplings = {name: Sampling.paper(steps=asked.calls, **options)}
    else:
        samplings = {f"{name}, U = {s.resamplings}": s for s in repainted(asked.calls, **options)}
    return [bench.model(row, pipeline, s, ckpt) for row, s in samplings.items()]


def training_tables(asked: argparse.Namespace) -> list[str]:
    """Variants of a config; one that changes nothing is the first that is like it."""
    baseline = settled(asked)
    bench = Bench("extract", baseline["model_config"], asked, asked.segments)
    rows, done = [], []
    for name in asked.only:
        configs = changed(baseline, VARIANTS[name])
        alike = [rows_of for other, rows_of in done if other == configs]
        if alike:
            found = [replace(row, name=f"{name} (is {row.name})") for row in alike[0]]
        else:
            found = judged(bench, name, configs, asked)
            done.append((configs, found))
        rows += found
        write_json(asked.out / "training.json", {"extraction": [row.figures() for row in rows]})
    return [extraction_table(rows)]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    sampling = commands.add_parser("sampling", help="ways to sample from one model")
    sampling.set_defaults(make=sampling_tables)
    sampling.add_argument("--model", type=Path, required=True, help="folder of the trained model")
    sampling.add_argument("--generated", type=int, help="windows of music; --segments if not said")
    training = commands.add_parser("training", help="short trainings of a config's variants")
    training.set_defaults(make=training_tables)
    add = training.add_argument
    add("--model-config", type=Path, required=True, help="of the baseline")
    add("--latents", type=Path, required=True, help="dataset config of type mge_latents")
    add("--autoencoder", type=Path, required=True, help="its weights")
    add("--steps", type=int, required=True, help="of each training")
    add("--batch-size", type=int, default=16, help="of training")
    add("--precision", default="32-true", help="of training, a name of Lightning's")
    add("--every", type=int, default=500, help="steps after which the state is kept")
    add("--only", nargs="+", choices=VARIANTS, default=tuple(VARIANTS), help="variants")
    add("--cfg-scale", type=float, default=2.0)
    for command in (sampling, training):
        add = command.add_argument
        add("--dataset-config", type=Path, required=True, help="the test set")
        add("--out", type=Path, required=True, help="folder for the results")
        add("--segments", type=int, default=12, help="windows of each label")
        add("--label", nargs="+", default=INSTRUMENTS, help="instruments")
        add("--calls", type=int, default=40, help="of the network by DDIM and by RePaint")
        add("--batch", type=int, default=8, help="windows at a time")
        add("--seed", type=int, default=0, help="of windows, noise and weights")
        add("--device", default="auto")
    asked = parser.parse_args(words)
    if asked.calls % math.lcm(*RESAMPLINGS):
        parser.error(f"--calls: not a multiple of {math.lcm(*RESAMPLINGS)}: {asked.calls}")
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for; write and print the tables."""
    asked = arguments(words)
    logging.disable(logging.WARNING)
    text = "\n\n".join(asked.make(asked))
    name = asked.make.__name__.removesuffix("_tables")
    write_file(asked.out / f"{name}.md", f"{text}\n".encode())
    print(text)


if __name__ == "__main__":
    sys.exit(main())
