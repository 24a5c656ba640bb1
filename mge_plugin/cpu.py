"""Let SAT's scripts, which ask for a GPU by name, run on the CPU: for smoke tests."""

import functools
from types import ModuleType
from typing import Any

import wrapt


def keep_to_cpu(processes: int) -> None:
    """Make every Lightning Trainer, from now on, use `processes` CPU processes."""
    hook = functools.partial(_wrap_trainer, processes)
    wrapt.register_post_import_hook(hook, "pytorch_lightning.trainer.trainer")


def _wrap_trainer(processes: int, module: ModuleType) -> None:
    def on_cpu(init: Any, trainer: Any, args: tuple, kwargs: dict) -> None:
        init(*args, **kwargs | {"accelerator": "cpu", "devices": processes})

    wrapt.wrap_function_wrapper(module, "Trainer.__init__", on_cpu)
