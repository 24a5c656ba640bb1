"""Deterministic DDIM over tracks (paper, algorithm 2; arXiv 2010.02502).

The network itself holds given tracks clean and at level 0 (`mge_plugin.models.given`), so one loop
serves generation and inpainting.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mge_plugin.noise import Objective, V

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (b, k, c, n), t (b, k) -> prediction (b, k, c, n)
Callback = Callable[[Mapping[str, Any]], None]


def ddim_step(
    x: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V
) -> tuple[Tensor, Tensor]:
    """Move `x` from noise level `t` to `t_next`, no new noise (arXiv 2010.02502, eq. 12, eta = 0).

    All (batch, track, channel, frame) or broadcastable. Returns the next `x` and `denoised`. For
    rectified flow this is an Euler step.
    """
    denoised = objective.denoised(x, prediction, t)
    eps = objective.noise(x, prediction, t)
    return objective.add_noise(denoised, eps, t_next), denoised


def sample_ddim(
    model: Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
) -> Tensor:
    """Denoise `noise` (b, k, c, n) along `schedule` (steps,), levels from high to low.

    Returns the last prediction of the clean latents (b, k, c, n). A last level of 0 is where the
    run ends, no level to call the network at. `callback` gets i, t, x and denoised of every step.
    """
    if (schedule.diff() >= 0).any():
        raise ValueError(f"schedule: levels must fall, found {schedule.tolist()}")
    schedule = schedule[schedule > 0].to(noise.device)
    lower = schedule.roll(-1)
    lower[-1] = 0.0
    x = denoised = noise.float()
    for i, (t, t_next) in enumerate(zip(schedule, lower, strict=True)):
        prediction = model(x, t.expand(x.shape[:2])).float()
        x, denoised = ddim_step(x, prediction, t, t_next, objective)
        if callback is not None:
            callback({"i": i, "t": t, "x": x, "denoised": denoised})
    return denoised
