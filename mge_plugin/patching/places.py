"""Where a stable-audio-tools is, and which version, without importing it."""

import re
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mge_plugin import upstream

PACKAGE = "stable_audio_tools"
BUILD_FILES = ("setup.py", "pyproject.toml")  # where a clone says its version
_NAME = re.compile(r"""\bname\s*=\s*["']stable[-_]audio[-_]tools["']""")
_VERSION = re.compile(r"""(?<![\w-])version\s*=\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Place:
    """The folder that holds the package (a clone, or site-packages), and the package's version."""

    root: Path
    version: str


def find_place(path: Path | None = None) -> Place:
    """A clone or a package's folder, the installed package if None; ValueError if it is neither."""
    root = _installed() if path is None else _root(path)
    version = _cloned_version(root) or _installed_version(root)
    if version is None and path is None:
        version = upstream.sat_version()
    if version is None:
        raise ValueError(
            f"{root / PACKAGE}: of which version it is says neither {' nor '.join(BUILD_FILES)} "
            "nor an installation's metadata beside it"
        )
    return Place(root, version)


def _installed() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("stable-audio-tools is not installed here: name the folder of a clone")
    return Path(spec.origin).parents[1]


def _root(path: Path) -> Path:
    """The folder that holds the package, whichever of the two is named."""
    if (path / PACKAGE / "__init__.py").is_file():
        return path
    folder = path.resolve()
    if folder.name == PACKAGE and (folder / "__init__.py").is_file():
        return folder.parent
    found = "a folder without it" if path.is_dir() else "a file" if path.exists() else "nothing"
    raise ValueError(f"{path}: expected the folder {PACKAGE} or a clone with it, found {found}")


def _cloned_version(root: Path) -> str | None:
    for name in BUILD_FILES:
        file = root / name
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if _NAME.search(text) and (version := _VERSION.search(text)):
            return version[1]
    return None


def _installed_version(root: Path) -> str | None:
    found = metadata.distributions(name=upstream.DISTRIBUTION, path=[str(root)])
    return next((distribution.version for distribution in found), None)
