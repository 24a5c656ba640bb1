"""Insert the block that loads plugins into a stable_audio_tools/__init__.py, or remove it.

The block is what the files in `patches/` add. It goes to the end, whatever else the file has.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from mge_plugin.files import shipped_file, written_whole

_PACKAGE = "stable_audio_tools"
_MARK = b"def _load_plugins():"


def find_file(path: Path | None = None) -> Path:
    """The file to patch, of a clone, of a package's folder or (None) of the installed package."""
    if path is None:
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ValueError("stable-audio-tools is not installed: name the folder of a clone")
        return Path(spec.origin)
    package = path if path.resolve().name == _PACKAGE else path / _PACKAGE
    if not (package / "__init__.py").is_file():
        raise ValueError(f"{path}: expected a clone of stable-audio-tools or its package's folder")
    return package / "__init__.py"


def is_patched(file: Path) -> bool:
    """Whether the block is at the end of the file; ValueError where it is changed or elsewhere."""
    content = file.read_bytes()
    if content.endswith(_block(content)):
        return True
    if _MARK in content:
        raise ValueError(f"{file}: the block of _load_plugins was changed or moved")
    return False


def apply_patch(file: Path) -> bool:
    """Insert the block; False if it is there already."""
    if is_patched(file):
        return False
    content = file.read_bytes()
    _rewrite(file, content + _block(content))
    return True


def revert_patch(file: Path) -> bool:
    """Remove the block, to the byte; False if it is not there."""
    if not is_patched(file):
        return False
    content = file.read_bytes()
    _rewrite(file, content.removesuffix(_block(content)))
    return True


def _block(content: bytes) -> bytes:
    """The block with the line ends of `content`."""
    patch = shipped_file("patches/stable-audio-tools-0.0.20.patch").read_bytes()
    lines = patch.replace(b"\r\n", b"\n").splitlines(keepends=True)
    added = [line[1:] for line in lines if line.startswith(b"+") and not line.startswith(b"+++")]
    block = b"\n" + b"".join(added[1:])  # the first one only ends the last line of SAT's file
    return block.replace(b"\n", b"\r\n") if b"\r\n" in content else block


def _rewrite(file: Path, content: bytes) -> None:
    """Replace a file as a whole and keep its mode; files that it is linked to stay unchanged."""
    try:
        with written_whole(file) as partial:
            partial.write_bytes(content)
            shutil.copymode(file, partial)
    except OSError as error:
        raise OSError(f"{file}: unchanged, because writing failed ({error.strerror})") from error
