"""What the ranks of a run know together."""

import torch.distributed as dist
from torch import Tensor


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
