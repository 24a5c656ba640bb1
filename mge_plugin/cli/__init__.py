"""The `mge` command: one module per group of commands, each registered on `app`."""

from mge_plugin.cli import corpora, evaluate, models, tasks, tools
from mge_plugin.cli.app import app, main

__all__ = ["app", "corpora", "evaluate", "main", "models", "tasks", "tools"]
