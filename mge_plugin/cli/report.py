"""What a run over several songs tells: lines as it goes, a summary or JSON, the exit code."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import typer
from tqdm import tqdm

from mge_plugin.cli.console import complain, sentence
from mge_plugin.cli.jobs import Job
from mge_plugin.cli.outputs import Saved

SONG_ERRORS = (ValueError, OSError, MemoryError)  # of one song; the others go on
INTERRUPTED = 130  # exit code: 128 + SIGINT


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

    def done(self, job: Job, saved: Saved) -> None:
        """A result was made and written."""
        self._add(job, saved, "done")
        for line in [saved.warning, *missing(saved.info)]:
            if line:
                tell(f"{job.label}: {line}")
        if not self.as_json:
            with tqdm.external_write_mode():
                for path in saved.files:
                    self._say(f"Wrote {path}")

    def present(self, job: Job, saved: Saved) -> None:
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
            raise typer.Exit(INTERRUPTED) from None
        self._close()
        if self.error is not None and self.total == 1:
            raise self.error
        if self.failures:
            raise typer.Exit(1)

    def _add(self, job: Job, saved: Saved, state: str) -> None:
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
