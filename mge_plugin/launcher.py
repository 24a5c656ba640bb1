"""Run an unmodified stable-audio-tools script with the plugin registered.

    python -m mge_plugin [--cpu[=PROCESSES]] SCRIPT ARGS...

The script runs in this process's own `__main__`, whose `__spec__` stays: Lightning starts its other
ranks as `python -m mge_plugin.__main__ ARGS...`, so that they are registered too. What it leaves
out is the script's name; that travels in an environment variable, used only by a rank that was
started with the very same arguments.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from mge_plugin import registry

LAUNCH_VARIABLE = "MGE_PLUGIN_LAUNCH"
_USAGE = """usage: python -m mge_plugin [--cpu[=PROCESSES]] SCRIPT [ARGS...]

Run one of stable-audio-tools' scripts (train.py, unwrap_model.py, ...) with the plugin registered.
--cpu lets scripts that ask for a GPU by name run without one, in one process or in several."""


@dataclass(frozen=True)
class Launch:
    """A script to run: its path, its arguments and whether to keep to the CPU."""

    script: str
    arguments: tuple[str, ...]
    cpu_processes: int | None = None  # None: devices as the script asks

    @classmethod
    def parse(cls, argv: Sequence[str]) -> "Launch":
        """Read the launcher's command line; SystemExit with the usage when it is not one."""
        argv, processes = list(argv), None
        while argv and argv[0].startswith("-"):
            option, _, value = argv.pop(0).partition("=")
            if option != "--cpu" or (value and not value.isdigit()) or value == "0":
                raise SystemExit(f"unknown option {option}{'=' + value if value else ''}\n{_USAGE}")
            processes = int(value or 1)
        if not argv:
            raise SystemExit(_USAGE)
        if not Path(argv[0]).is_file():
            raise SystemExit(f"{argv[0]}: no such script")
        return cls(str(Path(argv[0]).resolve()), tuple(argv[1:]), processes)

    @classmethod
    def inherited(cls, argv: Sequence[str]) -> "Launch | None":
        """The parent's launch, in a rank that was started with the script's arguments alone."""
        stored = os.environ.get(LAUNCH_VARIABLE)
        if stored is None or "LOCAL_RANK" not in os.environ:
            return None
        script, arguments, processes = json.loads(stored)
        return cls(script, tuple(arguments), processes) if arguments == list(argv) else None

    def export(self) -> None:
        """Leave the launch to the ranks that are started from here."""
        launch = [self.script, self.arguments, self.cpu_processes]
        os.environ[LAUNCH_VARIABLE] = json.dumps(launch)


def prepare(argv: Sequence[str]) -> tuple[str, CodeType]:
    """Register the plugin and make `sys` look as if Python had been called with the script.

    Returns the script's path and its code, for the caller to execute in `__main__`.
    """
    launch = Launch.inherited(argv) or Launch.parse(argv)
    launch.export()
    registry.install()
    if launch.cpu_processes is not None:
        from mge_plugin.devices import keep_to_cpu

        keep_to_cpu(launch.cpu_processes)
    sys.argv = [launch.script, *launch.arguments]
    sys.path.insert(0, str(Path(launch.script).parent))
    return launch.script, compile(Path(launch.script).read_bytes(), launch.script, "exec")
