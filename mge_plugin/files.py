"""Files that are written whole or not at all."""

import os
import sys
from pathlib import Path
from uuid import uuid4


def write_file(path: Path, content: bytes | memoryview) -> Path:
    """Write `content` under a temporary name in the same folder, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.tmp")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def shipped_file(name: str) -> Path:
    """A file that ships beside the package: in the repository, or installed under share/."""
    folders = (Path(__file__).parents[1], Path(sys.prefix) / "share" / "mge_plugin")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name}: in none of {', '.join(map(str, folders))}")
