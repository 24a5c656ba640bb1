"""What every command says and how: errors in one sentence, progress, no chatter of others."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer
from tqdm import tqdm


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """An expected error becomes one sentence on stderr; MGE_DEBUG=1 shows the whole of it."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("MGE_DEBUG"):
            raise
        complain(f"error: {sentence(error)}")
        raise SystemExit(1) from error


def sentence(error: Exception) -> str:
    """An error's message in one line; the system's own without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def complain(line: str) -> None:
    """Write a line to stderr, whatever characters a path has."""
    typer.echo(line.encode(errors="backslashreplace").decode(), err=True)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hide what SAT says while it is loaded: optional packages it does without, deprecations."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def sampling_progress(calls: int) -> Iterator[Callable[[Any], None]]:
    """A bar over the network's calls; yields the sampler's callback."""
    with tqdm(total=calls, desc="sampling", unit="step") as bar:

        def step(_: Any) -> None:
            bar.update()

        yield step
