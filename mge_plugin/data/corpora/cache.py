"""The song index on disk: one JSON file a corpus, checked against the files' sizes and times.

A song is read again when one of its files was changed, removed or added, or its manifest's lines
were. Songs with a file that could not be read are not kept: what is in the way may be gone.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from mge_plugin import __version__
from mge_plugin.data.corpora.config import READER_OPTIONS, CorpusConfig
from mge_plugin.data.corpora.reader import UNREADABLE, Found, FoundStem, Place
from mge_plugin.data.songs import IndexReport, Part
from mge_plugin.files import write_file

logger = logging.getLogger(__name__)

AUTO = "auto"
SELECTING = ("on_duplicates", "test_share", "validation_share", "split_seed")  # nothing in a song


def cache_folder(setting: str | None) -> Path | None:
    """The folder that `index_cache` names: "auto" is the user's cache folder, null is none."""
    if setting == AUTO:
        return platformdirs.user_cache_path("mge_plugin", appauthor=False) / "index"
    return None if setting is None else Path(setting).expanduser()


@dataclass(frozen=True)
class IndexCache:
    """What earlier runs read of one corpus."""

    path: Path

    @classmethod
    def of(cls, folder: Path, root: Path, config: CorpusConfig) -> "IndexCache":
        """The file of a corpus at `root` read with the options that change what a song is."""
        names = [n for n in READER_OPTIONS[config.type] if n not in SELECTING]
        options = {name: getattr(config, name) for name in names}
        options["follow_links"] = config.follow_links
        options["loose files"] = config.type == "folder" and config.mixture_only
        key = json.dumps([__version__, str(root.resolve()), config.type, options])
        return cls(folder / f"{config.type}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")

    def load(self) -> dict[str, Any]:
        """Entries by place; a file that cannot be used is told and counts as none."""
        try:
            entries = json.loads(self.path.read_bytes())
            if not isinstance(entries, dict):
                raise TypeError("not an object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.warning("%s: made anew, it cannot be used (%s)", self.path, error)
            return {}
        return entries

    def save(self, entries: Mapping[str, Any]) -> None:
        """Write the file whole or not at all; a folder that cannot be written to is told."""
        try:
            write_file(self.path, json.dumps(entries).encode())
        except OSError as error:
            logger.warning("%s: the index is not kept (%s)", self.path, error.strerror or error)


def place_key(place: Place) -> str:
    """What names a place within its corpus."""
    return f"{place.path}|{place.id}"


def stamp(place: Place) -> list[Any]:
    """What has to be the same for what was read to be true still."""
    files = [[str(file.path), file.size, file.mtime_ns] for file in place.files]
    return [files, [list(line) for line in place.listed]]


def to_entry(place: Place, found: Found) -> dict[str, Any] | None:
    """What is kept of a song; None if it should be read again."""
    if UNREADABLE in found.report.left_out:
        return None
    stems = [[s.labels, [_plain_part(part) for part in s.parts]] for s in found.stems]
    report = asdict(found.report)
    return {"stamp": stamp(place), "stems": stems, "origin": found.origin, "report": report}


def from_entry(place: Place, entry: Any) -> Found | None:
    """What was read of a song, if nothing has changed and the entry is one."""
    try:
        if entry["stamp"] != stamp(place):
            return None
        stems = tuple(
            FoundStem(tuple(labels), tuple(Part(Path(p), *rest) for p, *rest in parts))
            for labels, parts in entry["stems"]
        )
        return Found(stems, str(entry["origin"]), IndexReport(**entry["report"]))
    except (KeyError, TypeError, ValueError):
        return None


def _plain_part(part: Part) -> list[Any]:
    return [str(part.path), part.sample_rate, part.num_frames, part.stream]
