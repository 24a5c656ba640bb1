"""What the ranks of a run know together.

Let SAT's scripts, which ask for a GPU by name, run on the CPU: for smoke tests.
"""

import functools
from types import ModuleType
from typing import Any

import torch.distributed as dist
import wrapt
from torch import Tensor


def keep_to_cpu(processes: int) -> None:
    """Make every Lightning Trainer, from now on, use `processes` CPU processes."""
    hook = functools.partial(_wrap_trainer, processes)
    wrapt.register_post_import_hook(hook, "pytorch_lightning.trainer.trainer")


def _wrap_trainer(processes: int, module: ModuleType) -> None:
    def on_cpu(init: Any, trainer: Any, args: tuple, kwargs: dict) -> None:
        init(*args, **kwargs | {"accelerator": "cpu", "devices": processes})

    wrapt.wrap_function_wrapper(module, "Trainer.__init__", on_cpu)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's `value`, without a gradient; `value` itself in a run of one."""
    value = value.detach().clone()
    if _are_connected():
        dist.all_reduce(value)
    return value


def number_of_ranks() -> int:
    """1 in a run that is not distributed."""
    return dist.get_world_size() if _are_connected() else 1


def _are_connected() -> bool:
    return dist.is_available() and dist.is_initialized()
