"""The noise levels that a sampling run visits."""

import torch
from torch import Tensor

T_MIN = 0.02  # the lowest level of a noised track in training (paper, section 2.2)


def linear_schedule(steps: int, t_min: float = T_MIN) -> Tensor:
    """The paper's levels, from noise down: linspace(1, t_min, steps), float32, (steps,)."""
    if steps < 1:
        raise ValueError(f"steps: a sampling run needs 1 or more, found {steps}")
    return torch.linspace(1.0, t_min, steps)
