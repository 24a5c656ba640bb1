"""DDIM over tracks (paper, algorithm 2; arXiv 2010.02502).

The network itself holds given tracks clean and at level 0 (`mge_plugin.models.given`), so one loop
serves generation and inpainting.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mge_plugin.inference.schedule import checked
from mge_plugin.noise import Objective, V

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (b, k, c, n), t (b, k) -> prediction (b, k, c, n)
Callback = Callable[[Mapping[str, Any]], None]
Fresh = Callable[[int], Tensor]  # the number of a draw -> unit noise (b, k, c, n)


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
    fresh: Fresh | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Denoise `noise` (b, k, c, n) along `schedule` (steps,), levels from high to low.

    Returns the last prediction of the clean latents (b, k, c, n). A last level of 0 is where the
    run ends, no level to call the network at. `eta` is the share of noise that is drawn anew, by
    `fresh`, in every step (eq. 16). `callback` gets i, t, sigma, x and denoised of every step.
    """
    levels = checked(schedule)
    x = denoised = noise.float()
    for i, (t, t_next) in enumerate(levels):
        prediction = model(x, t.expand(x.shape[:2])).float()
        moved, denoised = ddim_step(x, prediction, t, t_next, objective)
        if eta > 0:
            eps = objective.noise(x, prediction, t)
            moved = renew(denoised, eps, fresh(i), t, t_next, eta, objective)
        x = moved
        report(callback, i, t, x, denoised, objective)
    return denoised


def renew(
    denoised: Tensor,
    eps: Tensor,
    new: Tensor,
    t: Tensor,
    t_next: Tensor,
    eta: float,
    objective: Objective = V,
) -> Tensor:
    """`x` at `t_next` with a part of its noise `eps` replaced by `new` (arXiv 2010.02502, eq. 16).

    All (b, k, c, n), levels broadcastable. The new part's deviation is that of the process from
    `t_next` to `t`, times `eta`: eta = 1 is ancestral sampling.
    """
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    shrunk = sigma_next * alpha / (alpha_next * sigma)
    deviation = eta * sigma_next * (1 - shrunk.square()).clamp_min(0).sqrt()
    kept = (sigma_next.square() - deviation.square()).clamp_min(0).sqrt()
    return alpha_next * denoised + kept * eps + deviation * new


def report(
    callback: Callback | None, i: int, t: Tensor, x: Tensor, denoised: Tensor, objective: Objective
) -> None:
    """Tell the one hook of all samplers about a step."""
    if callback is not None:
        sigma = objective.alpha_sigma(t)[1]
        callback({"i": i, "t": t, "sigma": sigma, "x": x, "denoised": denoised})
