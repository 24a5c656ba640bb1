"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes | memoryview) -> Path:
    """Write `content` under a temporary name in the same folder, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
