"""Jobs one after another: what is complete is passed over, the model is opened once, if at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mge_plugin.cli.console import sampling_progress, without_chatter
from mge_plugin.cli.jobs import Job
from mge_plugin.cli.options import ModelOptions, OutputOptions
from mge_plugin.cli.outputs import read_complete, request_of, save
from mge_plugin.cli.report import SONG_ERRORS, Report
from mge_plugin.data.audio import audio_info, read_audio
from mge_plugin.files import checkpoint_fingerprint

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline, Request, Result, Sampling


def run_jobs(
    jobs: Sequence[Job],
    sampling: "Sampling",
    model: ModelOptions,
    output: OutputOptions,
    together: int = 1,
) -> None:
    """Make every job's result, `together` in a batch; one that fails does not stop the others."""
    model.check()
    output.check()
    report = Report(len(jobs), output.as_json)
    with report.closing():
        requests = Requests(sampling, model, output)
        waiting = [job for job in jobs if _is_to_do(job, requests, report)]
        if not waiting:
            return
        output.make_folder()
        maker = Maker.open(model, sampling, jobs)
        with tqdm(total=len(waiting), desc="songs", disable=len(waiting) == 1) as bar:
            for first in range(0, len(waiting), together):
                group = waiting[first : first + together]
                _make(group, maker, requests, report)
                bar.update(len(group))


class Requests:
    """What is asked of each job, and what is written of it."""

    def __init__(self, sampling: "Sampling", model: ModelOptions, output: OutputOptions) -> None:
        self.sampling, self.output = sampling, output
        self.settings = {
            "dtype": model.dtype,
            "format": output.format,
            "model_config": checkpoint_fingerprint(model.model_config),
            "ckpt": checkpoint_fingerprint(model.ckpt),
        }
        self.origin = {"model_config": str(model.model_config), "ckpt": str(model.ckpt)}

    def of(self, job: Job) -> dict[str, Any]:
        """All that decides the result."""
        return request_of(job, self.sampling, self.settings)

    def info(self, job: Job) -> dict[str, Any]:
        """What a result's JSON says besides how it was made."""
        song = {} if job.song is None else {"song": str(job.song)}
        return song | self.origin | {"request": self.of(job)}


def _is_to_do(job: Job, requests: Requests, report: Report) -> bool:
    """Whether a job waits: its files can be read and its result is not there."""
    try:
        _check_files(job)
        request = requests.of(job)
        saved = None if requests.output.overwrite else read_complete(job.base, request)
    except SONG_ERRORS as error:
        report.failed(job, error)
        return False
    if saved is not None:
        report.present(job, saved)
    return saved is None


def _check_files(job: Job) -> None:
    """By their headers: a kept track has the rate and the length of its song, and the spans."""
    song = None if job.song is None else audio_info(job.song)
    for name, path in (("--keep", job.keep), ("--init", job.init)):
        if path is None:
            continue
        rate, frames = audio_info(path)
        if song is not None and song != (rate, frames):
            raise ValueError(
                f"{name}: expected {song[1]} samples at {song[0]} Hz as {job.song} has, found "
                f"{frames} at {rate} Hz in {path}"
            )
    if job.keep is None:
        return
    rate, frames = audio_info(job.keep)
    for start, end in job.redo:
        if start >= frames / rate:
            raise ValueError(
                f"--redo: expected seconds of {job.keep}, which has {frames / rate:.2f}, "
                f"found {start:g} to {end:g}"
            )


def _make(group: Sequence[Job], maker: "Maker", requests: Requests, report: Report) -> None:
    """Make some jobs together; where that fails, each alone, so that one failure is one song's."""
    try:
        results = maker.make(group)
    except SONG_ERRORS as error:
        if len(group) == 1:
            report.failed(group[0], error)
        else:
            for job in group:
                _make([job], maker, requests, report)
        return
    for job, result in zip(group, results, strict=True):
        try:
            saved = save(job.base, result, requests.info(job), requests.output.format)
        except SONG_ERRORS as error:
            report.failed(job, error)
        else:
            report.done(job, saved)


@dataclass
class Maker:
    """A model that makes jobs' results."""

    pipeline: "Pipeline"
    sampling: "Sampling"
    examples: dict[Path, dict[str, Any]]  # as prompts have them

    @classmethod
    def open(cls, model: ModelOptions, sampling: "Sampling", jobs: Sequence[Job]) -> "Maker":
        """Load the model, and check what only it can tell."""
        with without_chatter():
            from mge_plugin.inference.pipeline import load
            from mge_plugin.inference.samplers import check_sampler

            pipeline = load(
                model.model_config, model.ckpt, model.device, model.dtype, model.compiled
            )
        check_sampler(sampling.sampler, pipeline.model.diffusion_objective)
        paths = {words.example for job in jobs for words in job.prompts} - {None}
        if paths and not pipeline.engine.hears:
            raise ValueError(
                f"--example: {model.model_config} has texts for prompts only; a model with "
                "conditioner mge_clap hears"
            )
        return cls(pipeline, sampling, {path: _example(path) for path in paths})

    def make(self, jobs: Sequence[Job]) -> "list[Result]":
        """The jobs' results, with a bar over the steps."""
        if jobs[0].task == "replace":
            return [self._replace(job) for job in jobs]
        requests = [self._request(job, job.task, job.prompts) for job in jobs]
        with sampling_progress(self.pipeline.steps(requests, self.sampling)) as callback:
            return self.pipeline.run(requests, self.sampling, callback)

    def _request(self, job: Job, task: str, prompts: Sequence[Any]) -> "Request":
        from mge_plugin.inference.pipeline import Init, Keep, Request

        audio, rate, keep, init = None, None, None, None
        if job.init is not None:
            begun, rate = read_audio(job.init)
            init = Init(begun, job.init_level)
        if job.keep is not None:
            kept, rate = read_audio(job.keep)
            keep = Keep(kept, job.redo)
        if job.song is not None:
            audio, rate = read_audio(job.song)
        words = tuple(words.prompt(task, self.examples.__getitem__) for words in prompts)
        return Request(
            task,
            words,
            audio,
            rate,
            seconds=job.seconds,
            seed=job.seed,
            negative=job.negative or None,
            keep=keep,
            init=init,
        )

    def _replace(self, job: Job) -> "Result":
        """Two runs, of which the second is given the residual of the first."""
        out, new = (
            self._request(job, task, [words])
            for task, words in zip(("extract", "add"), job.prompts, strict=True)
        )
        steps = sum(self.pipeline.steps([request], self.sampling) for request in (out, new))
        with sampling_progress(steps) as callback:
            return self.pipeline.replace(
                out.audio,
                out.sample_rate,
                out.prompts[0],
                new.prompts[0],
                self.sampling,
                callback,
                negative=out.negative,
                seed=out.seed,
            )


def _example(path: Path) -> dict[str, Any]:
    """An audio example as a prompt has it."""
    import torch

    audio, rate = read_audio(path)
    return {"audio": torch.from_numpy(audio), "sample_rate": rate}
