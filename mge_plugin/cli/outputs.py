"""Results on disk: the tracks as audio files, and a JSON beside them that is written last.

out/song_the_bass_source.wav
out/song_the_bass_residual.wav
out/song_the_bass.json         how they were made, and of what; with it, a result is complete
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mge_plugin.cli.jobs import Job
from mge_plugin.config import ConfigError, found, read_json
from mge_plugin.data.audio import flac_problem, write_flac, write_wav
from mge_plugin.files import checkpoint_fingerprint, write_file

if TYPE_CHECKING:
    from mge_plugin.inference.request import Sampling
    from mge_plugin.inference.result import Result

UNSEEN = ("window_batch", "seed")  # of a sampling: changes nothing; the job has its own


@dataclass(frozen=True)
class Saved:
    """A result on disk."""

    files: tuple[Path, ...]
    info: dict[str, Any]  # the JSON's content
    warning: str | None = None


def request_of(job: Job, sampling: "Sampling", settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides a result, as plain data: files by their fingerprints."""
    values = {k: v for k, v in sampling.described().items() if k not in UNSEEN}
    values |= settings | {
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
    return json.loads(json.dumps(values))


def read_complete(base: Path, request: dict[str, Any]) -> Saved | None:
    """The result of this request if it is there whole; of another request raises ConfigError."""
    path = json_path(base)
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
    return Saved(files, info) if all(file.is_file() for file in files) else None


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


def json_path(base: Path) -> Path:
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


def save(base: Path, result: "Result", info: dict[str, Any], audio_format: str) -> Saved:
    """Write a result, each file whole or not at all, the JSON last.

    What a FLAC cannot hold as it is becomes a WAV, all tracks of it, and the warning says why.
    """
    json_path(base).unlink(missing_ok=True)  # it would call new tracks those of an old request
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
    write_file(json_path(base), text.encode(errors="backslashreplace"))
    warning = warning and f"written as WAV, since a FLAC cannot hold it as it is: {warning}"
    return Saved(tuple(base.with_name(name) for name in names.values()), info, warning)
