"""The noise levels that a sampling run visits, from `t_max` down; the run ends at level 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

T_MIN = 0.02  # the lowest level of a noised track in training (paper, section 2.2)
T_MAX_SNR = 0.998  # where the log-SNR schedule leaves level 1, whose log-SNR is infinite


@dataclass(frozen=True)
class Start:
    """Latents (b, k, c, n) that a run begins from, noised to `level` (t)."""

    latents: Tensor
    level: float


def linear_schedule(steps: int, t_max: float = 1.0, t_min: float = T_MIN) -> Tensor:
    """The paper's levels: linspace(1, t_min, steps), float32, (steps,)."""
    _check(steps)
    return torch.linspace(t_max, min(t_min, t_max / 2), steps)


def log_snr_schedule(steps: int, t_max: float = 1.0, t_min: float = T_MIN) -> Tensor:
    """Levels of which log(alpha / sigma) is evenly spaced, after level 1 itself; (steps,).

    Few-step solvers take their steps in it (arXiv 2206.00927, section 5).
    """
    _check(steps)
    first = torch.full((min(steps, 1),), t_max)
    if steps == 1:
        return first
    begins_at_1 = t_max > T_MAX_SNR
    ends = (
        -math.log(math.tan(t * math.pi / 2)) for t in (min(t_max, T_MAX_SNR), min(t_min, t_max / 2))
    )
    log_snr = torch.linspace(*ends, steps - begins_at_1, dtype=torch.float64)
    levels = (torch.atan(torch.exp(-log_snr)) * 2 / math.pi).float()
    return torch.cat([first, levels]) if begins_at_1 else levels


SCHEDULES: dict[str, Callable[..., Tensor]] = {
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
