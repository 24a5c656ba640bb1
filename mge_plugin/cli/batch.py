"""Run jobs one after another: results that exist are skipped, a failure does not stop the others.

A result is audio files and a JSON that names them. It is complete when the JSON and all of its
files exist: files are written under temporary names, then the JSON, then the files get their names.
A file that the result's JSON does not name is never overwritten unless --overwrite is given.

Under torchrun each rank runs its share of the jobs, and rank 0 prints one report.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from mge_plugin.cli.app import complain, say, sentence, slow_module
from mge_plugin.cli.jobs import Job, Prompt
from mge_plugin.cli.options import FORMATS, ModelOptions, OutputOptions
from mge_plugin.config import ConfigError, found, read_json
from mge_plugin.data.audio import read_audio, write_flac, write_wav
from mge_plugin.files import checkpoint_fingerprint, written_whole
from mge_plugin.inference.request import Audio, Finish, Init, Keep, Request, Result, Sampling
from mge_plugin.launcher import quietly
from mge_plugin.models.hub import ModelFiles

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline

_Info = dict[str, Any]  # the content of a result's JSON
_SONG_ERRORS = (ValueError, OSError, MemoryError)  # of one song; the others are still computed
_INTERRUPTED = 130  # exit code: 128 + SIGINT
_UNRELATED = ("window_batch", "seed")  # sampling options without influence on a job's result
_FILES = ("song", "keep", "init", "model_config", "ckpt")  # in a request as fingerprints
_REMEDY = "use --overwrite or another --out"


@dataclass
class Report:
    """What became of the jobs of a command."""

    total: int
    as_json: bool = False
    songs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    error: Exception | None = None  # of the last song that failed

    def add(self, job: Job, info: _Info, state: str) -> None:
        """A result was written ("done"), or it existed ("already there")."""
        paths = [str(path) for path in track_files(job.json_path, info).values()]
        self.songs.append({"song": job.label, "state": state, "files": paths, "info": info})
        if self.as_json:
            return
        with tqdm.external_write_mode():
            if state == "done":
                for path in paths:
                    say(f"Wrote {path}")
            elif self.total == 1:
                say(f"Already there: {', '.join(paths)}")

    def failed(self, job: Job, error: Exception) -> None:
        """Print it now if there are other songs, at the end if it was the only one."""
        if os.environ.get("MGE_DEBUG"):
            raise error
        text = sentence(error)
        self.error = error
        self.failures.append({"song": job.label, "error": text})
        if self.total > 1:
            warn(f"failed: {text if text.startswith(job.label) else f'{job.label}: {text}'}")

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Whatever happens inside, the results are reported; a failed song is exit code 1."""
        quiet = redirect_stdout(sys.stderr) if self.as_json else nullcontext()
        try:
            with quiet:
                yield
        except KeyboardInterrupt:
            warn(
                f"interrupted: {len(self.songs)} of {self.total} are there, the same command "
                "resumes with the rest"
            )
            self._close()
            raise typer.Exit(_INTERRUPTED) from None
        failed = self.error
        with self._gathered() as prints:
            if prints:
                self._close()
        if failed is not None and self.total == 1:
            raise failed
        if failed is not None:
            raise typer.Exit(1)

    @contextmanager
    def _gathered(self) -> Iterator[bool]:
        """Collect the reports of all ranks; yields whether this rank prints them."""
        rank, world = _rank_and_world()
        if world == 1:
            yield True
            return
        dist = slow_module("torch.distributed")
        parts: list[Any] = [None] * world
        with _output_to_stderr():  # where gloo of torch 2.8 reports its connections
            dist.init_process_group("gloo", timeout=timedelta(days=30))  # for the slowest rank
            dist.all_gather_object(parts, (self.total, self.songs, self.failures))
        self.total = sum(total for total, _, _ in parts)
        self.songs = [song for _, songs, _ in parts for song in songs]
        self.failures = [failure for _, _, failures in parts for failure in failures]
        yield rank == 0
        sys.stdout.flush()
        dist.barrier()  # torchrun ends the others as soon as a rank with a failure has ended
        dist.destroy_process_group()

    def _close(self) -> None:
        if self.as_json:
            report = {"songs": self.songs, "failures": self.failures}
            say(json.dumps(report, indent=4, allow_nan=False))
        elif self.total > 1:
            states = [song["state"] for song in self.songs]
            say(
                f"{states.count('done')} done, {states.count('already there')} already there, "
                f"{len(self.failures)} failed"
            )


def warn(line: str) -> None:
    """Write a line to stderr that leaves progress bars whole."""
    with tqdm.external_write_mode(file=sys.stderr):
        complain(line)


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send to stderr what is written to stdout, by libraries that are not Python too."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _rank_and_world() -> tuple[int, int]:
    """This process's number and the number of processes that torchrun started."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@dataclass(frozen=True)
class Runner:
    """Computes the results of jobs; the model is loaded when the first one is needed."""

    files: ModelFiles
    model: ModelOptions
    output: OutputOptions
    sampling: Sampling
    finish: Finish = field(default_factory=Finish)

    def run(self, jobs: Sequence[Job]) -> None:
        """Compute every job's result, `model.batch` at a time."""
        rank, world = _rank_and_world()
        jobs = jobs[rank::world]
        report = Report(len(jobs), self.output.json)
        with report.closing():
            waiting = [self._renamed(job) for job in jobs if self._is_missing(job, report)]
            if not waiting:
                return
            self.output.make_folder()
            if self.files.card.notice and any(job.song for job in waiting):
                warn(f"note: {self.files.card.notice}")
            pipeline = self._load(waiting)
            with tqdm(total=len(waiting), desc="songs", disable=len(waiting) == 1) as bar:
                for first in range(0, len(waiting), self.model.batch):
                    group = waiting[first : first + self.model.batch]
                    self._compute(group, pipeline, report)
                    bar.update(len(group))

    def _is_missing(self, job: Job, report: Report) -> bool:
        """Whether the result is to be computed; a result with other settings is a failure."""
        try:
            job.check_files()
            info = None if self.output.overwrite else self._read_complete(job)
        except _SONG_ERRORS as error:
            report.failed(job, error)
            return False
        if info is not None:
            report.add(job, info, "already there")
        return info is None

    def _renamed(self, job: Job) -> Job:
        """The job with long names if files of other results have its names."""
        return job.with_long_names() if self._taken(job, job.sources) else job

    def _taken(self, job: Job, tracks: Iterable[str]) -> list[Path]:
        """Existing files of the tracks' names that the job's own JSON does not name."""
        if self.output.overwrite:
            return []
        path = job.json_path
        own = track_files(path, read_json(path)).values() if path.exists() else ()
        names = [f"{job.file_name(track)}.{suffix}" for track in tracks for suffix in FORMATS]
        return [p for p in map(path.with_name, names) if os.path.lexists(p) and p not in own]

    def _request(self, job: Job) -> _Info:
        """All that decides a job's result, as plain data."""
        options = asdict(self.sampling) | asdict(self.finish)
        values = {name: value for name, value in options.items() if name not in _UNRELATED}
        values |= {
            "dtype": self.model.dtype,
            "format": self.output.format,
            "model_config": checkpoint_fingerprint(self.files.config_file),
            "ckpt": checkpoint_fingerprint(self.files.ckpt),
        }
        return json.loads(json.dumps(values | job.described()))

    def _read_complete(self, job: Job) -> _Info | None:
        """The JSON of this request's result if it is complete; another result raises."""
        path, request = job.json_path, self._request(job)
        if not path.exists():
            return None
        try:
            info = read_json(path)
        except ConfigError as error:
            raise ConfigError(f"{error}; {_REMEDY}") from error
        stored = info.get("request")
        if not isinstance(stored, dict):
            raise ConfigError(f"{path}: exists and was not written by this command: {_REMEDY}")
        if differences := _differences(stored, request):
            raise ConfigError(f"{path}: exists with other settings ({differences}): {_REMEDY}")
        return info if all(file.is_file() for file in track_files(path, info).values()) else None

    def _load(self, jobs: Sequence[Job]) -> "Pipeline":
        """Load the model, and check what needs it."""
        options, device = self.model, self.model.device
        if _rank_and_world()[1] > 1:
            ranks = slow_module("mge_plugin.data.latents.encode").Ranks.of(os.environ)
            device = str(ranks.device(device))
        with quietly():
            pipeline = slow_module("mge_plugin.inference.pipeline").load(
                *self.files.paths,
                device=device,
                dtype=options.dtype,
                compiled=options.compile,
            )
        sampling = slow_module("mge_plugin.inference.sampling")
        sampling.check_sampler(self.sampling.sampler, pipeline.model.diffusion_objective)
        if any(job.has_example for job in jobs) and not pipeline.supports_audio:
            raise ValueError(
                f"--example: {self.files.name} takes text prompts only; a model with conditioner "
                "mge_clap or mge_text_audio supports audio"
            )
        return pipeline

    def _compute(self, group: Sequence[Job], pipeline: "Pipeline", report: Report) -> None:
        """Compute jobs together; if that fails, each alone, so that one song fails alone."""
        try:
            results = self._results(group, pipeline)
        except _SONG_ERRORS as error:
            if len(group) == 1:
                report.failed(group[0], error)
            else:
                for job in group:
                    self._compute([job], pipeline, report)
            return
        for job, result in zip(group, results, strict=True):
            try:
                info = self._save(job, result, _effective(pipeline))
            except _SONG_ERRORS as error:
                report.failed(job, error)
            else:
                for line in _remarks(info):
                    warn(f"{job.label}: {line}")
                report.add(job, info, "done")

    def _results(self, group: Sequence[Job], pipeline: "Pipeline") -> list[Result]:
        """The results of jobs."""
        if group[0].chain:
            return [self._chained(job, pipeline) for job in group]
        return _run(pipeline, [self._to_request(job, job.prompts) for job in group])

    def _to_request(self, job: Job, prompts: Sequence[Prompt], audio: Any = None) -> Request:
        converted: dict[str, Any] = {  # by the request
            "prompts": tuple(_with_audio(prompt) for prompt in prompts),
            "audio": audio or job.song,
            "negative": job.negative or None,
            "new_prompt": _with_audio(job.new_prompt),
        }
        return Request(
            job.task,
            seconds=job.seconds,
            seed=job.seed,
            keep=None if job.keep is None else Keep(Audio.of(job.keep), job.redo),
            init=None if job.init is None else Init(Audio.of(job.init), job.init_level or 1.0),
            sampling=self.sampling,
            finish=self.finish,
            **converted,
        )

    def _chained(self, job: Job, pipeline: "Pipeline") -> Result:
        """Extract each prompt from the residual of the one before."""
        rest: Any = None
        audio, tracks = {}, {}
        for name, prompt in zip(job.sources, job.prompts, strict=True):
            (result,) = _run(pipeline, [self._to_request(job, [prompt], rest)])
            source = next(iter(result.audio))
            audio[name], tracks[name] = result.audio[source], result.info["tracks"][source]
            rest = (result.audio["residual"], result.sample_rate)
        info = result.info | {"tracks": tracks | {"residual": result.info["tracks"]["residual"]}}
        return Result(audio | {"residual": rest[0]}, result.sample_rate, info)

    def _save(self, job: Job, result: Result, run: _Info) -> _Info:
        """Write a result's audio and its JSON; returns the JSON's content."""
        tracks = _tracks_to_write(job, result)
        as_flac = self.output.format == "flac" and not result.flac_problem()
        write, suffix = (write_flac, "flac") if as_flac else (write_wav, "wav")
        renamed = dict(zip(result.audio, job.sources, strict=False))  # sources come first
        names = {t: f"{job.file_name(renamed.get(t, t))}.{suffix}" for t in tracks}
        path = job.json_path
        paths = {track: path.with_name(name) for track, name in names.items()}
        if taken := self._taken(job, [renamed.get(track, track) for track in tracks]):
            raise ConfigError(f"{taken[0]}: exists and belongs to another result: {_REMEDY}")
        start = time.monotonic()
        with ExitStack() as renaming:
            for track, audio in tracks.items():
                partial = renaming.enter_context(written_whole(paths[track]))
                write(partial, audio, result.sample_rate)
            seconds = result.info.get("seconds", {}) | {"write": round(time.monotonic() - start, 3)}
            song = {} if job.song is None else {"song": str(job.song)}
            origin = {"model_config": str(self.files.config_file), "ckpt": str(self.files.ckpt)}
            info = song | origin | {"request": self._request(job), "files": names} | result.info
            info |= {"seconds": seconds, "run": run}
            if self.output.format == "flac" and not as_flac:
                info["format_problem"] = result.flac_problem()
            for old in paths.values():  # beside the new JSON they would be taken for its own
                old.unlink(missing_ok=True)
            text = json.dumps(info, indent=4, ensure_ascii=False, allow_nan=False)
            with written_whole(path) as partial:
                partial.write_bytes(text.encode(errors="backslashreplace"))
        return info


def _effective(pipeline: "Pipeline") -> _Info:
    """Device, precision and peak memory of a run."""
    weight = next(pipeline.model.model.parameters())
    return {
        "device": str(pipeline.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "peak_memory_mb": _peak_memory(str(pipeline.device)),
    }


def _run(pipeline: "Pipeline", requests: Sequence[Request]) -> list[Result]:
    """The requests' results, with a progress bar."""
    with tqdm(total=pipeline.steps(requests), desc="sampling", unit="step") as bar:

        def advance(event: Mapping[str, Any]) -> None:
            bar.update(event["advance"])

        return pipeline.run(requests, advance)


def _with_audio(prompt: Prompt) -> Any:
    """A prompt with the samples of its examples in place of their paths."""
    if not isinstance(prompt, dict):
        return prompt
    read = dict(prompt)
    for label, part in prompt.items():
        if isinstance(part, dict):
            audio, rate = read_audio(part["audio"])
            read[label] = part | {"audio": audio, "sample_rate": rate}
    return read


def _tracks_to_write(job: Job, result: Result) -> dict[str, Any]:
    """The audio of a result that its job requests, by track."""
    if job.minus:
        return {"residual": result.audio["residual"]}
    absent = set(_absent(result.info)) if job.all else set()
    return {name: audio for name, audio in result.audio.items() if name not in absent}


def _absent(info: _Info) -> Iterator[str]:
    """The names of the sources that were not found in the song."""
    for name, track in info["tracks"].items():
        presence = track.get("presence", {})
        threshold = presence.get("threshold")
        if threshold is not None and presence["score"] < threshold:
            yield name


def _remarks(info: _Info) -> Iterator[str]:
    """What a user should know of a result."""
    if problem := info.get("format_problem"):
        yield f"written as WAV, since a FLAC cannot hold it as it is: {problem}"
    tracks = info["tracks"]
    sources = [name for name, track in tracks.items() if "presence" in track]
    if sources and all(tracks[name]["rms_db"] is None for name in (*sources, "residual")):
        yield "is silent, so is all that was extracted"
        return
    absent = list(_absent(info))
    if info["request"].get("all"):
        if absent:
            yield f"not in the song: {', '.join(absent)}"
        return
    for name in absent:
        presence = tracks[name]["presence"]
        yield (
            f"{tracks[name]['prompt']!r} was not found (presence {presence['score']:.2f} of "
            f"{presence['threshold']:g}) and is silent; --no-gate writes what the model made"
        )


def _differences(stored: _Info, request: _Info) -> str:
    """The settings of a stored result that differ; files are named only."""
    defaults = asdict(Sampling()) | asdict(Finish())  # of options that did not exist then
    stored = {k: v for k, v in defaults.items() if k not in _UNRELATED} | stored
    stored = json.loads(json.dumps(stored))
    return ", ".join(
        f"another {name}"
        if name in _FILES
        else f"{name}: found {found(stored.get(name))}, requested {found(request.get(name))}"
        for name in {**request, **stored}
        if stored.get(name) != request.get(name)
    )


def track_files(path: Path, info: _Info) -> dict[str, Path]:
    """The audio files that a result's JSON names, by track; they are beside it."""
    files = info.get("files")
    if not isinstance(files, dict) or not files:
        raise ConfigError(f"{path}: expected files by track, found {found(files)}")
    for name in files.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{path}: files: expected names of files beside it, found {name!r}")
    return {track: path.with_name(name) for track, name in files.items()}


def _peak_memory(device: str) -> int | None:
    """Peak of the device's memory, or of this process's, in MB; None if it is unknown."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) // 10**6
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6
