"""Run an unmodified stable-audio-tools script with the plugin registered.

    python -m mge_plugin [--cpu[=PROCESSES]] SCRIPT ARGS...

SCRIPT is a path, or the name of a script that is found in the folder MGE_SAT_SCRIPTS, in the clone
that stable-audio-tools is installed from, or in `mge_plugin.scripts`.

The script runs in this process's own `__main__`, whose `__spec__` stays: Lightning starts its
other ranks as `python -m mge_plugin.__main__ ARGS...`, so that they are registered too. That
command lacks the script's name; it travels in an environment variable, used only by a rank that was
started with the very same arguments.
"""

import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, TracebackType

from mge_plugin import registry
from mge_plugin.config import ConfigError

# Importing SAT starts torch's pool of compile processes, which takes seconds of every command. With
# this it starts at the first compilation.
os.environ.setdefault("TORCH_WARM_POOL", "0")

_LAUNCH_VARIABLE = "MGE_PLUGIN_LAUNCH"
_SCRIPTS_VARIABLE = "MGE_SAT_SCRIPTS"
_OURS = ("train.py", "unwrap_model.py", "run_gradio.py")  # in mge_plugin.scripts
_CHECKED = ("unwrap_model.py", "run_gradio.py")  # read model files that may come from strangers
_DEFAULTS = "defaults.ini"  # where train.py has its defaults, in the current folder
_USAGE = f"""usage: python -m mge_plugin [--cpu[=PROCESSES]] SCRIPT [ARGS...]
       mge run [--cpu[=PROCESSES]] SCRIPT [ARGS...]

Run one of stable-audio-tools' scripts with the plugin registered: train.py, unwrap_model.py,
run_gradio.py, or the path of any script. A name without a folder is looked up in the current
folder, in ${_SCRIPTS_VARIABLE}, and in the clone that stable-audio-tools is installed from; where
there is none, the plugin's own version of the script is used. `SCRIPT --help` shows its options.

--cpu runs scripts that request a GPU by name without one, in one process or in several."""


@dataclass(frozen=True)
class _Launch:
    """A script to run: its path, its arguments and whether to keep to the CPU."""

    script: str  # a path, or a name in mge_plugin.scripts
    arguments: tuple[str, ...]
    cpu_processes: int | None = None  # None: the devices that the script requests

    @classmethod
    def parse(cls, argv: Sequence[str]) -> "_Launch":
        """Read the launcher's command line; SystemExit with the usage when it is not one."""
        argv, processes = list(argv), None
        while argv and argv[0].startswith("-"):
            option, _, value = argv.pop(0).partition("=")
            if option in ("--help", "-h"):
                sys.stdout.write(f"{_USAGE}\n")
                raise SystemExit(0)
            if option != "--cpu" or (value and not value.isdigit()) or value == "0":
                raise SystemExit(f"unknown option {option}{'=' + value if value else ''}\n{_USAGE}")
            processes = int(value or 1)
        if not argv:
            raise SystemExit(_USAGE)
        return cls(_find_script(argv[0]), tuple(argv[1:]), processes)

    @classmethod
    def inherited(cls, argv: Sequence[str]) -> "_Launch | None":
        """The parent's launch, in a rank that was started with the script's arguments alone."""
        stored = os.environ.get(_LAUNCH_VARIABLE)
        if stored is None or "LOCAL_RANK" not in os.environ:
            return None
        script, arguments, processes = json.loads(stored)
        return cls(script, tuple(arguments), processes) if arguments == list(argv) else None

    def export(self) -> None:
        """Leave the launch to the ranks that are started from here."""
        launch = [self.script, self.arguments, self.cpu_processes]
        os.environ[_LAUNCH_VARIABLE] = json.dumps(launch)


def _find_script(name: str) -> str:
    """The absolute path of a script, or the name of one of ours."""
    folders = [Path()]
    if Path(name).name == name:
        folders += [Path(f) for f in (os.environ.get(_SCRIPTS_VARIABLE),) if f]
        spec = find_spec("stable_audio_tools")
        folders += [Path(f).parent for f in (spec and spec.submodule_search_locations) or ()]
    for path in (folder / name for folder in folders):
        if path.is_file():
            return str(path.resolve())
    if name in _OURS:
        return name
    raise SystemExit(f"{name}: no such script, expected a path or one of {', '.join(_OURS)}")


@contextmanager
def quietly() -> Iterator[None]:
    """Hide what SAT prints and warns of while it is imported, such as missing optional packages."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prepare(argv: Sequence[str]) -> tuple[str, CodeType]:
    """Register the plugin and make `sys` look as if Python had been called with the script.

    Returns the script's path and its code, for the caller to execute in `__main__`.
    """
    launch = _Launch.inherited(argv) or _Launch.parse(argv)
    launch.export()
    script = Path(launch.script)
    if script.name in _CHECKED:
        _check_weights(launch.arguments)
    registry.install()
    sys.excepthook = _show
    if launch.cpu_processes is not None:
        from mge_plugin.devices import keep_to_cpu

        keep_to_cpu(launch.cpu_processes)
    arguments = [*launch.arguments]
    if launch.script in _OURS:
        call = f"main({script.name!r}, {arguments!r})"
        code = f"from mge_plugin.scripts import main\n{call}".encode()
    else:
        code, defaults = script.read_bytes(), script.with_name(_DEFAULTS)
        if script.name == "train.py" and defaults.is_file() and not Path(_DEFAULTS).exists():
            arguments += ["--config-file", str(defaults)]
        sys.path.insert(0, str(script.parent))
    sys.argv = [launch.script, *arguments]
    with quietly():
        importlib.import_module("stable_audio_tools.models.transformer")  # it prints the most
    return launch.script, compile(code, launch.script, "exec")


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an expected error in one line; MGE_DEBUG=1 shows the traceback."""
    checkpoints = sys.modules.get("mge_plugin.models.checkpoints")
    expected = (ConfigError,) if checkpoints is None else (ConfigError, checkpoints.CheckpointError)
    if isinstance(error, expected) and not os.environ.get("MGE_DEBUG"):
        sys.stderr.write(f"error: {error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _check_weights(arguments: Sequence[str]) -> None:
    """Refuse a checkpoint that would run code; then torch.load opens tensors alone."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # SAT's unwrap_model.py loads without it
    values = [*arguments, ""]
    for option, value in zip(arguments, values[1:], strict=True):
        name, sign, inline = option.partition("=")
        path = Path(inline if sign else value)
        if name.endswith("ckpt-path") and path.is_file():
            from mge_plugin.models.checkpoints import CheckpointError, read_checkpoint

            try:
                read_checkpoint(path)
            except CheckpointError as error:
                raise SystemExit(f"error: {error}") from error
