"""`mge doctor`: what is installed, what is found, and what is wrong, in words; never over the network."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mge_plugin import __version__, registry, upstream

PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "gradio", "laion-clap", "transformers")
CLAP_CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"
CLAP_FOLDERS = ("checkpoints", "clap")  # beside the working folder's own
TOKENIZER = "models--roberta-base"  # in the hub's cache


@dataclass(frozen=True)
class Finding:
    """One line of the report; `problem` says what to do where something is wrong."""

    name: str
    value: str
    problem: str | None = None


def examine() -> Iterator[Finding]:
    """Every finding, in the order of the report."""
    yield Finding("mge_plugin", __version__)
    yield Finding("Python", f"{platform.python_version()} ({sys.executable})")
    yield _sat()
    for package in PACKAGES:
        yield Finding(package, _version(package) or "not installed")
    yield _device()
    yield _hooks()
    yield _clap_checkpoint()
    yield _tokenizer()
    yield _minislakh()


def _sat() -> Finding:
    version = upstream.sat_version()
    if version is None:
        return Finding(upstream.DISTRIBUTION, "not installed", "pip install stable-audio-tools")
    tested = " and ".join(upstream.TESTED_VERSIONS)
    untested = version not in upstream.TESTED_VERSIONS
    return Finding(upstream.DISTRIBUTION, version, f"tested with {tested}" if untested else None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> Finding:
    if _version("torch") is None:
        return Finding("device", "unknown", "install torch first")
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"cuda: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", "mps")
    return Finding("device", f"cpu, {os.cpu_count()} cores (no GPU found; training will be slow)")


def _hooks() -> Finding:
    if upstream.sat_version() is None:
        return Finding("hooks", "not tried")
    registry.install()
    import stable_audio_tools.data.dataset
    import stable_audio_tools.training  # noqa: F401

    missing = [name for name, is_in in registry.installed().items() if not is_in]
    if missing:
        return Finding("hooks", "missing", f"not replaced: {', '.join(missing)}")
    return Finding("hooks", f"in: {', '.join(registry.installed())}")


def _clap_checkpoint() -> Finding:
    folders = [Path.cwd(), *(Path.cwd() / name for name in CLAP_FOLDERS)]
    found = [path for f in folders if (path := f / CLAP_CHECKPOINT).is_file()]
    where = str(found[0]) if found else f"{CLAP_CHECKPOINT} not found (needed by no config yet)"
    return Finding("CLAP checkpoint", where)


def _tokenizer() -> Finding:
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    folder = hub / TOKENIZER
    return Finding("CLAP tokenizer", str(folder) if folder.is_dir() else f"{TOKENIZER} not found")


def _minislakh() -> Finding:
    missing = [name for name in ("mido", "pretty_midi", "tinysoundfont") if not find_spec(name)]
    if not missing:
        return Finding("MiniSlakh rendering", "ready")
    remedy = "pip install 'mge-plugin[minislakh]' && pip install --no-deps tinysoundfont"
    return Finding("MiniSlakh rendering", f"without {', '.join(missing)}", remedy)
