"""Files that are written whole or not at all."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unicodedata import normalize
from uuid import uuid4

_ENDS = 1 << 20  # bytes at each end of a checkpoint that tell it from another
_LONGEST = 100  # bytes of a name, without what a task adds to it
_DEVICES = {"con", "prn", "aux", "nul", "conin", "conout"}  # no file's names on Windows
_DEVICES |= {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}


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
        digest = hashlib.sha256(str(size).encode() + file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read())
    return digest.hexdigest()


def file_stem(text: str) -> str:
    """A name safe for any file system: words joined by underscores, at most 100 bytes."""
    return _cut(_joined(text), _LONGEST).strip("_") or "untitled"


def output_name(text: str, ending: str = "") -> str:
    """As `file_stem`, with an ending that is never cut.

    Names that have to be cut keep a hash, by which they stay different; a name that Windows keeps
    for a device gets an underscore.
    """
    name = _joined(normalize("NFC", text)).strip("_") or "untitled"
    if len(name.encode()) + len(ending.encode()) > _LONGEST:
        name = _tagged(name, name, _LONGEST - len(ending.encode()))
    name += ending
    return f"{name}_" if name.casefold() in _DEVICES else name


def distinct_paths(paths: Sequence[Path], whose: Sequence[str]) -> list[Path]:
    """Paths of which those that are one to some file system get a hash of whose they are.

    That is, those that differ in case or in how accents are composed only; `whose` has to differ.
    """
    plain = [normalize("NFC", path.as_posix()).casefold() for path in paths]
    counts = Counter(plain)
    if len(counts) == len(paths):
        return list(paths)
    tagged = [
        path if counts[key] == 1 else path.with_name(_tagged(path.name, who, _LONGEST))
        for path, key, who in zip(paths, plain, whose, strict=True)
    ]
    return distinct_paths(tagged, [f"{who}'" for who in whose])


def _joined(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)


def _cut(name: str, size: int) -> str:
    """At most `size` bytes of it."""
    return name.encode()[:size].decode(errors="ignore")


def _tagged(name: str, text: str, size: int) -> str:
    """At most `size` bytes, of which the last 8 are of the text's hash."""
    tag = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{_cut(name, size - len(tag) - 1).rstrip('_')}_{tag}"


def shipped_file(name: str) -> Path:
    """A file that ships with the package: inside an installed wheel, or in the repository."""
    package = Path(__file__).parent
    places = (package / "shipped" / name, package.parent / name)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{name}: expected at {' or '.join(map(str, places))}")
