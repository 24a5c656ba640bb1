"""Jobs one after another: what is complete is passed over, the model is opened once, if at all.

Results on disk: the tracks as audio files, and a JSON beside them that is written last.

out/song_the_bass_source.wav
out/song_the_bass_residual.wav
out/song_the_bass.json         how they were made, and of what; with it, a result is complete

What a run over several songs tells: lines as it goes, a summary or JSON, the exit code.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from mge_plugin.cli.app import complain, sampling_progress, sentence, without_chatter
from mge_plugin.cli.jobs import Job
from mge_plugin.cli.options import ModelOptions, OutputOptions
from mge_plugin.config import ConfigError, found, read_json
from mge_plugin.data.audio import audio_info, flac_problem, read_audio, write_flac, write_wav
from mge_plugin.files import checkpoint_fingerprint, write_file

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline
    from mge_plugin.inference.request import Finish, Request, Result, Sampling

_UNSEEN = ("window_batch", "seed")  # of a sampling: changes nothing; the job has its own


@dataclass(frozen=True)
class _Saved:
    """A result on disk."""

    files: tuple[Path, ...]
    info: dict[str, Any]  # the JSON's content
    warning: str | None = None


def _request_of(
    job: Job, sampling: "Sampling", finish: "Finish", settings: dict[str, Any]
) -> dict[str, Any]:
    """All that decides a result, as plain data: files by their fingerprints."""
    values = {k: v for k, v in asdict(sampling).items() if k not in _UNSEEN}
    values |= (
        asdict(finish)
        | settings
        | {
            "task": job.task,
            "prompts": [words.described() for words in job.prompts],
            "negative": job.negative,
            "seed": job.seed,
            "seconds": job.seconds,
            "song": job.song and checkpoint_fingerprint(job.song),
            "keep": job.keep and checkpoint_fingerprint(job.keep),
            "redo": job.redo,
            "init": job.init and checkpoint_fingerprint(job.init),
            "init_level": job.init_level,
        }
    )
    return json.loads(json.dumps(values))


def _read_complete(base: Path, request: dict[str, Any]) -> _Saved | None:
    """The result of this request if it is there whole; of another request raises ConfigError."""
    path = _json_path(base)
    if not path.exists():
        return None
    remedy = "use --overwrite or another --out"
    try:
        info = read_json(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy}") from error
    there = info.get("request")
    if not isinstance(there, dict):
        raise ConfigError(f"{path}: exists and was not written by this command: {remedy}")
    if differences := _differences(there, request):
        raise ConfigError(f"{path}: exists with other settings ({differences}): {remedy}")
    files = tuple(track_files(path, info).values())
    return _Saved(files, info) if all(file.is_file() for file in files) else None


def _differences(there: dict[str, Any], request: dict[str, Any]) -> str:
    """What the request on disk says otherwise; a file's fingerprint tells nobody anything."""
    files = ("song", "keep", "init", "model_config", "ckpt")
    names = [n for n in {**request, **there} if there.get(n) != request.get(n)]
    return ", ".join(
        f"another {name}"
        if name in files
        else f"{name}: found {found(there.get(name))}, asked {found(request.get(name))}"
        for name in names
    )


def _json_path(base: Path) -> Path:
    """The JSON of a result."""
    return base.with_name(f"{base.name}.json")


def track_files(path: Path, info: dict[str, Any]) -> dict[str, Path]:
    """The audio files that a result's JSON names, by track; they lie beside it."""
    files = info.get("files")
    if not isinstance(files, dict) or not files:
        raise ConfigError(f"{path}: expected files by track, found {found(files)}")
    for name in files.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{path}: files: expected names of files beside it, found {name!r}")
    return {track: path.with_name(name) for track, name in files.items()}


def save(base: Path, result: "Result", info: dict[str, Any], audio_format: str) -> _Saved:
    """Write a result, each file whole or not at all, the JSON last.

    What a FLAC cannot hold as it is becomes a WAV, all tracks of it, and the warning says why.
    """
    _json_path(base).unlink(missing_ok=True)  # it would call new tracks those of an old request
    suffix, write, warning = "wav", write_wav, None
    if audio_format == "flac":
        problems = ((n, flac_problem(a, result.sample_rate)) for n, a in result.audio.items())
        warning = next((f"{name}: {problem}" for name, problem in problems if problem), None)
        suffix, write = ("flac", write_flac) if warning is None else ("wav", write_wav)
    names = {track: f"{base.name}_{track}.{suffix}" for track in result.audio}
    for track, audio in result.audio.items():
        write(base.with_name(names[track]), audio, result.sample_rate)
    info = info | {"files": names} | result.info
    text = json.dumps(info, indent=4, ensure_ascii=False)
    write_file(_json_path(base), text.encode(errors="backslashreplace"))
    warning = warning and f"written as WAV, since a FLAC cannot hold it as it is: {warning}"
    return _Saved(tuple(base.with_name(name) for name in names.values()), info, warning)


_SONG_ERRORS = (ValueError, OSError, MemoryError)  # of one song; the others go on
_INTERRUPTED = 130  # exit code: 128 + SIGINT


def tell(line: str) -> None:
    """A line on stderr that leaves the bars whole."""
    with tqdm.external_write_mode(file=sys.stderr):
        complain(line)


@dataclass
class Report:
    """How the jobs of a command end."""

    total: int
    as_json: bool = False
    songs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    error: Exception | None = None  # the last song's that failed

    def done(self, job: Job, saved: _Saved) -> None:
        """A result was made and written."""
        self._add(job, saved, "done")
        for line in [saved.warning, *missing(saved.info)]:
            if line:
                tell(f"{job.label}: {line}")
        if not self.as_json:
            with tqdm.external_write_mode():
                for path in saved.files:
                    self._say(f"Wrote {path}")

    def present(self, job: Job, saved: _Saved) -> None:
        """A result of the same request was there."""
        self._add(job, saved, "already there")
        if self.total == 1 and not self.as_json:
            self._say(f"Already there: {', '.join(map(str, saved.files))}")

    def failed(self, job: Job, error: Exception) -> None:
        """Tell it now if there are other songs, at the end if it was the only one."""
        if os.environ.get("MGE_DEBUG"):
            raise error
        text = sentence(error)
        self.error = error
        self.failures.append({"song": job.label, "error": text})
        if self.total > 1:
            tell(f"failed: {text if text.startswith(job.label) else f'{job.label}: {text}'}")

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Whatever happens inside, what was made is told; a song that failed is exit code 1."""
        quiet = redirect_stdout(sys.stderr) if self.as_json else nullcontext()
        try:
            with quiet:
                yield
        except KeyboardInterrupt:
            finished = self._count("done") + self._count("already there")
            tell(
                f"interrupted: {finished} of {self.total} are there, the same command goes on "
                "with the rest"
            )
            self._close()
            raise typer.Exit(_INTERRUPTED) from None
        self._close()
        if self.error is not None and self.total == 1:
            raise self.error
        if self.failures:
            raise typer.Exit(1)

    def _add(self, job: Job, saved: _Saved, state: str) -> None:
        files = [str(path) for path in saved.files]
        self.songs.append({"song": job.label, "state": state, "files": files, "info": saved.info})

    def _count(self, state: str) -> int:
        return sum(song["state"] == state for song in self.songs)

    def _close(self) -> None:
        if self.as_json:
            typer.echo(json.dumps({"songs": self.songs, "failures": self.failures}, indent=4))
        elif self.total > 1:
            self._say(
                f"{self._count('done')} done, {self._count('already there')} already there, "
                f"{len(self.failures)} failed"
            )

    def _say(self, line: str) -> None:
        typer.echo(line.encode(errors="backslashreplace").decode())


def missing(info: dict[str, Any]) -> Iterator[str]:
    """A line for each source that was not found in a song."""
    tracks = info["tracks"]
    looked_for = {name: track for name, track in tracks.items() if "presence" in track}
    if looked_for and all(tracks[name]["rms_db"] is None for name in (*looked_for, "residual")):
        yield "is silent, so is all that was extracted"
        return
    for track in looked_for.values():
        presence = track["presence"]
        if presence["threshold"] is not None and presence["score"] < presence["threshold"]:
            yield (
                f"{track['prompt']!r} was not found (presence {presence['score']:.2f} of "
                f"{presence['threshold']:g}) and became silence; --no-gate gives what was made"
            )


def run_jobs(
    jobs: Sequence[Job],
    sampling: "Sampling",
    finish: "Finish",
    model: ModelOptions,
    output: OutputOptions,
    together: int = 1,
) -> None:
    """Make every job's result, `together` in a batch; one that fails does not stop the others."""
    model.check()
    output.check()
    report = Report(len(jobs), output.as_json)
    with report.closing():
        requests = _Requests(sampling, finish, model, output)
        waiting = [job for job in jobs if _is_to_do(job, requests, report)]
        if not waiting:
            return
        output.make_folder()
        maker = _Maker.open(model, sampling, finish, jobs)
        with tqdm(total=len(waiting), desc="songs", disable=len(waiting) == 1) as bar:
            for first in range(0, len(waiting), together):
                group = waiting[first : first + together]
                _make(group, maker, requests, report)
                bar.update(len(group))


class _Requests:
    """What is asked of each job, and what is written of it."""

    def __init__(
        self,
        sampling: "Sampling",
        finish: "Finish",
        model: ModelOptions,
        output: OutputOptions,
    ) -> None:
        self.sampling, self.finish, self.output = sampling, finish, output
        self.settings = {
            "dtype": model.dtype,
            "format": output.format,
            "model_config": checkpoint_fingerprint(model.model_config),
            "ckpt": checkpoint_fingerprint(model.ckpt),
        }
        self.origin = {"model_config": str(model.model_config), "ckpt": str(model.ckpt)}

    def of(self, job: Job) -> dict[str, Any]:
        """All that decides the result."""
        return _request_of(job, self.sampling, self.finish, self.settings)

    def info(self, job: Job) -> dict[str, Any]:
        """What a result's JSON says besides how it was made."""
        song = {} if job.song is None else {"song": str(job.song)}
        return song | self.origin | {"request": self.of(job)}


def _is_to_do(job: Job, requests: _Requests, report: Report) -> bool:
    """Whether a job waits: its files can be read and its result is not there."""
    try:
        _check_files(job)
        request = requests.of(job)
        saved = None if requests.output.overwrite else _read_complete(job.base, request)
    except _SONG_ERRORS as error:
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


def _make(group: Sequence[Job], maker: "_Maker", requests: _Requests, report: Report) -> None:
    """Make some jobs together; where that fails, each alone, so that one failure is one song's."""
    try:
        results = maker.make(group)
    except _SONG_ERRORS as error:
        if len(group) == 1:
            report.failed(group[0], error)
        else:
            for job in group:
                _make([job], maker, requests, report)
        return
    for job, result in zip(group, results, strict=True):
        try:
            saved = save(job.base, result, requests.info(job), requests.output.format)
        except _SONG_ERRORS as error:
            report.failed(job, error)
        else:
            report.done(job, saved)


@dataclass
class _Maker:
    """A model that makes jobs' results."""

    pipeline: "Pipeline"
    sampling: "Sampling"
    finish: "Finish"
    examples: dict[Path, dict[str, Any]]  # as prompts have them

    @classmethod
    def open(
        cls, model: ModelOptions, sampling: "Sampling", finish: "Finish", jobs: Sequence[Job]
    ) -> "_Maker":
        """Load the model, and check what only it can tell."""
        with without_chatter():
            from mge_plugin.inference.pipeline import load
            from mge_plugin.inference.sampling import check_sampler

            pipeline = load(
                model.model_config, model.ckpt, model.device, model.dtype, model.compiled
            )
        check_sampler(sampling.sampler, pipeline.model.diffusion_objective)
        paths = {words.example for job in jobs for words in job.prompts} - {None}
        if paths and not pipeline.supports_audio:
            raise ValueError(
                f"--example: {model.model_config} has texts for prompts only; a model with "
                "conditioner mge_clap hears"
            )
        return cls(pipeline, sampling, finish, {path: _example(path) for path in paths})

    def make(self, jobs: Sequence[Job]) -> "list[Result]":
        """The jobs' results, with a bar over the steps."""
        requests = [self._request(job) for job in jobs]
        with sampling_progress(self.pipeline.steps(requests)) as callback:
            return self.pipeline.run(requests, callback)

    def _request(self, job: Job) -> "Request":
        from mge_plugin.inference.request import Init, Keep, Request

        words = [words.prompt(job.task, self.examples.__getitem__) for words in job.prompts]
        new = words.pop() if job.task == "replace" else None
        return Request(
            job.task,
            words,
            job.song,
            job.seconds,
            job.seed,
            job.negative or None,
            None if job.keep is None else Keep(job.keep, job.redo),
            None if job.init is None else Init(job.init, job.init_level),
            new,
            self.sampling,
            self.finish,
        )


def _example(path: Path) -> dict[str, Any]:
    """An audio example as a prompt has it."""
    import torch

    audio, rate = read_audio(path)
    return {"audio": torch.from_numpy(audio), "sample_rate": rate}
