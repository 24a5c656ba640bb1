"""The `mge` command: one module a group of commands, each registered on `app`."""

from mge_plugin.cli import (
    corpora,
    encode,
    evaluate,
    fit,
    inspection,
    patch,
    remix,
    scripts,
    tasks,
    weights,
)
from mge_plugin.cli.app import app, main

__all__ = [
    "app",
    "corpora",
    "encode",
    "evaluate",
    "fit",
    "inspection",
    "main",
    "patch",
    "remix",
    "scripts",
    "tasks",
    "weights",
]
