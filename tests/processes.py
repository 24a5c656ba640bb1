"""Processes for tests: forked from one that has imported torch and stable-audio-tools already.

A new interpreter spends some ten seconds of processor time on these imports. Where a test is not
about importing, `start` and `run` give it a process of its own in a tenth of a second.
"""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

_PRELOAD = ["tests.processes", "mge_plugin.training.wrapper", "mge_plugin.inference.pipeline"]
_PRELOAD += ["mge_plugin.data.dataset", "mge_plugin.data.latents.encode", "mge_plugin.cli"]


def start(
    function: Callable[..., Any],
    *arguments: Any,
    variables: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> BaseProcess:
    """Call a module's function in a new process; `output` gets what it writes.

    It has this process's environment with these variables; its working directory too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    environment = dict(os.environ) | dict(variables or {})
    process = context.Process(
        target=_call, args=(function, arguments, environment, os.getcwd(), output)
    )
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        process.start()  # the first one starts the server, which imports from there
    return process


def run(function: Callable[..., Any], *arguments: Any, timeout: float = 240, **options: Any) -> int:
    """`start`, and wait for the exit code."""
    process = start(function, *arguments, **options)
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{function.__name__} takes more than {timeout} s")
    return process.exitcode


def run_ranks(
    count: int,
    function: Callable[..., Any],
    *arguments: Any,
    output: Path,
    codes: Sequence[int] = (),
) -> None:
    """Call a function in processes that are ranks as torchrun starts them.

    All must succeed, or exit with the given codes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "tests"}
    ranks = [
        start(
            function,
            *arguments,
            variables=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            output=output.with_suffix(f".{rank}.log"),
        )
        for rank in range(count)
    ]
    for rank in ranks:
        rank.join(240)
    found = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    logs = [output.with_suffix(f".{rank}.log").read_text()[-2000:] for rank in range(count)]
    assert found == list(codes or [0] * count), "\n".join(logs)


def run_script(path: str | Path, *arguments: str) -> None:
    """As `python path arguments` does."""
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def run_module(name: str, *arguments: str) -> None:
    """As `python -m name arguments` does."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_mge(*arguments: str) -> None:
    """As the command `mge arguments` does."""
    from mge_plugin.cli import main

    sys.argv = ["mge", *arguments]
    main()


def _call(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    environment: Mapping[str, str],
    folder: str,
    output: Path | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        faulthandler.enable(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    function(*arguments)
