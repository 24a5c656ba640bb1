"""`mge doctor`: report what is installed, what is found and what is wrong, without the network."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mge_plugin import __version__, registry, sat
from mge_plugin.models.clap import CHECKPOINT, TOKENIZER, TOKENIZER_NEEDS, has_tokenizer

_PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "gradio", "laion-clap", "transformers")
_TESTED_PYTHONS = ("3.10", "3.11")
_CLAP_CHECKPOINTS = (CHECKPOINT, "630k-audioset-best.pt")
_CLAP_FOLDERS = (".", "checkpoints", "clap")  # in the working folder
_TOKENIZERS = ("models--roberta-base", "models--FacebookAI--roberta-base")  # in the hub's cache
_RENDERERS = ("mido", "pretty_midi", "tinysoundfont")

_Examination = Callable[[], tuple[str, str | None]]  # what is found, and the remedy of a problem


@dataclass(frozen=True)
class _Finding:
    """One line of the report; `problem` is the remedy where something is wrong."""

    name: str
    value: str
    problem: str | None = None


def examine() -> Iterator[_Finding]:
    """Every finding, in the order of the report; one that fails does not hide the others."""
    for name, examination in _EXAMINATIONS.items():
        try:
            finding = _Finding(name, *examination())
        except Exception as error:  # an installation can be broken in any way
            reason = f"{type(error).__name__}: {str(error) or 'no message'}".splitlines()[0]
            finding = _Finding(name, "broken", reason)
        yield finding


def _plugin() -> tuple[str, None]:
    return __version__, None


def _python() -> tuple[str, str | None]:
    tested = any(platform.python_version().startswith(f"{v}.") for v in _TESTED_PYTHONS)
    problem = None if tested else f"tested with Python {' and '.join(_TESTED_PYTHONS)}"
    return f"{platform.python_version()} ({sys.executable})", problem


def _sat() -> tuple[str, str | None]:
    version = sat.sat_version()
    if version is None:
        return "not installed", "pip install stable-audio-tools"
    tested = " and ".join(sat.TESTED_VERSIONS)
    return version, None if version in sat.TESTED_VERSIONS else f"tested with {tested}"


def _package(name: str) -> tuple[str, None]:
    return _version(name) or "not installed", None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> tuple[str, str | None]:
    if _version("torch") is None:
        return "unknown", "install torch first"
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}", None
    if torch.backends.mps.is_available():
        return "mps", None
    return f"cpu, {os.cpu_count()} cores (no GPU found; training will be slow)", None


def _hooks() -> tuple[str, str | None]:
    if sat.sat_version() is None:
        return "not tested", None
    registry.install()
    import stable_audio_tools.data.dataset
    import stable_audio_tools.training  # noqa: F401

    installed = registry.installed()
    missing = [name for name, is_in in installed.items() if not is_in]
    if missing:
        return "missing", f"not replaced: {', '.join(missing)}"
    return f"in: {', '.join(installed)}", None


def _clap_checkpoint() -> tuple[str, None]:
    folders = [Path.cwd() / name for name in _CLAP_FOLDERS]
    found = [f / name for f in folders for name in _CLAP_CHECKPOINTS if (f / name).is_file()]
    return _listed(found, f"{_CLAP_CHECKPOINTS[0]} not found (for configs with mge_clap)"), None


def _tokenizer() -> tuple[str, str | None]:
    local = {f: [f] for name in _CLAP_FOLDERS if (f := Path.cwd() / name / TOKENIZER).is_dir()}
    cached = {
        f: f.glob("snapshots/*") for name in _TOKENIZERS if (f := _hub_cache() / name).is_dir()
    }
    folders = local | cached
    whole = [folder for folder, places in folders.items() if any(map(has_tokenizer, places))]
    if folders and not whole:
        return _listed(list(folders), ""), f"incomplete: has no {TOKENIZER_NEEDS}"
    return _listed(whole, f"{TOKENIZER} not found (for configs with mge_clap)"), None


def _listed(paths: list[Path], absent: str) -> str:
    return ", ".join(map(str, paths)) or absent


def _hub_cache() -> Path:
    """The folder of huggingface_hub's files, from the variables that it reads."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME", Path(cache) / "huggingface")) / "hub"


def _minislakh() -> tuple[str, str | None]:
    missing = [name for name in _RENDERERS if not find_spec(name)]
    if not missing:
        return "ready", None
    remedy = "pip install 'mge-plugin[minislakh]' && pip install --no-deps tinysoundfont"
    return f"without {', '.join(missing)}", remedy


_EXAMINATIONS: dict[str, _Examination] = {
    "mge_plugin": _plugin,
    "Python": _python,
    sat.DISTRIBUTION: _sat,
    **{name: partial(_package, name) for name in _PACKAGES},
    "device": _device,
    "hooks": _hooks,
    "CLAP checkpoint": _clap_checkpoint,
    "CLAP tokenizer": _tokenizer,
    "MiniSlakh rendering": _minislakh,
}
