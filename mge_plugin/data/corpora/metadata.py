"""Metadata files of songs, YAML and JSON: an object, or an error in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is 7 times as fast


class MetadataError(ValueError):
    """A song's metadata that cannot be used; the message says why, without the place."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML object; one that is not there, broken or of another shape raises MetadataError."""
    return _read(path, lambda content: yaml.load(content, Loader=_LOADER))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object, likewise."""
    return _read(path, json.loads)


def _read(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_bytes())
    except FileNotFoundError:
        raise MetadataError("song without metadata") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"song whose metadata cannot be read ({type(error).__name__})"
        raise MetadataError(reason) from error
    return content if isinstance(content, dict) else {}
