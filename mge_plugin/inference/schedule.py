"""The noise levels that a sampling run visits, from noise down; the run ends at level 0."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

T_MIN = 0.02  # the lowest level of a noised track in training (paper, section 2.2)
T_MAX_SNR = 0.998  # where the log-SNR schedule leaves level 1, whose log-SNR is infinite


def linear_schedule(steps: int, t_min: float = T_MIN) -> Tensor:
    """The paper's levels: linspace(1, t_min, steps), float32, (steps,)."""
    _check(steps)
    return torch.linspace(1.0, t_min, steps)


def log_snr_schedule(steps: int, t_min: float = T_MIN) -> Tensor:
    """Levels of which log(alpha / sigma) is evenly spaced, after level 1 itself; (steps,).

    Few-step solvers take their steps in it (arXiv 2206.00927, section 5).
    """
    _check(steps)
    if steps == 1:
        return torch.ones(1)
    ends = (-math.log(math.tan(t * math.pi / 2)) for t in (T_MAX_SNR, t_min))
    log_snr = torch.linspace(*ends, steps - 1, dtype=torch.float64)
    levels = torch.atan(torch.exp(-log_snr)) * 2 / math.pi
    return torch.cat([torch.ones(1), levels.float()])


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_schedule,
    "log-snr": log_snr_schedule,
}


def checked(schedule: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Every level and the next, the last one's 0; levels that do not fall raise ValueError.

    They stay on the CPU: as numbers they take part in arithmetic on any device without a wait.
    """
    if (schedule.diff() >= 0).any():
        raise ValueError(f"schedule: levels must fall, found {schedule.tolist()}")
    levels = schedule[schedule > 0].cpu()
    lower = torch.cat([levels[1:], torch.zeros(1)])
    return list(zip(levels, lower, strict=True))


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps: a sampling run needs 1 or more, found {steps}")
