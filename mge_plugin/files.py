"""Files that are written whole or not at all."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

ENDS = 1 << 20  # bytes at each end of a checkpoint that tell it from another


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; it is renamed to `path` if nothing was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | memoryview) -> Path:
    """Write `content` to `path`, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(content)
    return path


def checkpoint_fingerprint(path: Path) -> str:
    """Of a checkpoint's size and ends: torch's files have every tensor's checksum at the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(str(size).encode() + file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read())
    return digest.hexdigest()


def file_stem(text: str) -> str:
    """A name safe for any file system: words joined by underscores, at most 100 bytes."""
    name = re.sub(r"[^\w-]+", "_", text).encode()[:100].decode(errors="ignore")
    return name.strip("_") or "untitled"


def shipped_file(name: str) -> Path:
    """A file that ships beside the package: in the repository, or installed under share/."""
    folders = (Path(__file__).parents[1], Path(sys.prefix) / "share" / "mge_plugin")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name}: in none of {', '.join(map(str, folders))}")
