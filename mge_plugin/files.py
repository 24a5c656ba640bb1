"""Files: written whole or not at all, named for every file system, stamped, indexed."""

import errno
import hashlib
import json
import logging
import os
import re
import stat
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import normalize
from uuid import uuid4

_logger = logging.getLogger(__name__)

_ENDS = 1 << 20  # bytes at each end of a checkpoint that are part of its fingerprint
_LONGEST = 100  # bytes of a name, without what a task adds to it
_ABANDONED = 3600  # seconds after which a temporary file belongs to a run that was killed
_DEVICES = {"con", "prn", "aux", "nul", "conin", "conout"}  # no file's names on Windows
_DEVICES |= {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as `torch.save` writes, if damaged; not one cut off."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end names other archives
        return True


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; it is renamed to `path` if nothing was raised.

    The temporary name is unique, so processes that write the same file do not disturb each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | memoryview) -> Path:
    """Write `content` to `path`, whole or not at all; an error names the file and the bytes."""
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        reason = f"{error.strerror or error}, writing {memoryview(content).nbytes} bytes"
        raise OSError(error.errno, reason, str(path)) from error
    return path


def write_json(path: Path, content: Any, indent: int | None = None) -> Path:
    """Write strict JSON, whole or not at all; NaN and infinite numbers raise ValueError."""
    return write_file(path, json.dumps(content, indent=indent, allow_nan=False).encode())


def remove_abandoned(folder: Path, pattern: str = ".*.tmp") -> None:
    """Delete temporary files that killed runs left in `folder`: those older than an hour."""
    for path in folder.glob(pattern):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was faster


def read_regular(path: Path) -> bytes:
    """The content of a regular file; a pipe, socket or device, which may block, raises OSError."""
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise OSError for a pipe, socket or device: reading one may block forever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def stamp(path: Path) -> list[int]:
    """Values that change when a file's content changes: size, times of content and of status.

    The second time also changes when content is replaced and the first time is kept.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def read_index(path: Path) -> dict[str, Any]:
    """Entries that `write_index` kept, none if there are none; a broken file is logged."""
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("%s: cannot be used, it is written again (%s)", path, error)
        return {}
    return entries


def write_index(path: Path, entries: Mapping[str, Any]) -> None:
    """Keep entries for the next run; a folder that cannot be written to is logged."""
    try:
        write_json(path, entries)
    except OSError as error:
        _logger.warning("%s: the index is not kept (%s)", path, error.strerror or error)


def checkpoint_fingerprint(path: Path) -> str:
    """A hash of a checkpoint's size and ends: torch's files end with checksums of all tensors."""
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

    Names that are too long are cut and get a hash, so that they stay different; a name that Windows
    reserves for a device gets an underscore.
    """
    name = _joined(normalize("NFC", text)).strip("_") or "untitled"
    if len(name.encode()) + len(ending.encode()) > _LONGEST:
        name = _tagged(name, name, _LONGEST - len(ending.encode()))
    name += ending
    return f"{name}_" if name.casefold() in _DEVICES else name


def distinct_paths(paths: Sequence[Path], whose: Sequence[str]) -> list[Path]:
    """The paths, with a hash of `whose` where two would be the same file on some file system.

    Such paths differ only in case or in how accents are composed; the values of `whose` differ.
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
    """The first `size` bytes of a name, without a partial character."""
    return name.encode()[:size].decode(errors="ignore")


def _tagged(name: str, text: str, size: int) -> str:
    """At most `size` bytes, the last 8 of them from a hash of `text`."""
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
