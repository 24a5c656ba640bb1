"""Devices and the processes of a distributed run."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import wrapt
from torch import Tensor


def pick(device: str) -> str:
    """A device of this machine; `auto` is the GPU if there is one."""
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device != "auto" and device not in present:
        raise ValueError(f"device: expected auto or one of {', '.join(present)}, found {device!r}")
    return present[0] if device == "auto" else device


@contextmanager
def out_of_memory(message: str) -> Iterator[None]:
    """If torch cannot allocate, raise MemoryError with `message`."""
    try:
        yield
    except RuntimeError as error:  # on the CPU only its text says what it is
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(message) from error
        raise


def keep_to_cpu(processes: int) -> None:
    """Make every Lightning Trainer from now on use `processes` CPU processes.

    SAT's train.py requests a GPU by name; this is for smoke tests without one.
    """
    hook = functools.partial(_wrap_trainer, processes)
    wrapt.register_post_import_hook(hook, "pytorch_lightning.trainer.trainer")


def _wrap_trainer(processes: int, module: ModuleType) -> None:
    def on_cpu(init: Any, trainer: Any, args: tuple, kwargs: dict) -> None:
        init(*args, **kwargs | {"accelerator": "cpu", "devices": processes})

    wrapt.wrap_function_wrapper(module, "Trainer.__init__", on_cpu)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's `value`, without a gradient; a copy of `value` for a single rank."""
    value = value.detach().clone()
    if _are_connected():
        dist.all_reduce(value)
    return value


def number_of_ranks() -> int:
    """1 in a run that is not distributed."""
    return dist.get_world_size() if _are_connected() else 1


def _are_connected() -> bool:
    return dist.is_available() and dist.is_initialized()
