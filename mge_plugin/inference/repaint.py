"""Inpainting with one level for all tracks: RePaint (paper, algorithm 1; arXiv 2201.09865).

For networks that never saw a clean track among noised ones, and to compare with. What is known is
noised anew in every step; with U resamplings each step is gone back and repeated. U = 1 is the
canonical one-sample method (paper, appendix B.1).
"""

import torch
from torch import Tensor

from mge_plugin.inference.ddim import Callback, Denoiser, Fresh, ddim_step, report
from mge_plugin.inference.schedule import checked
from mge_plugin.models.given import Given
from mge_plugin.noise import Objective, V


def sample_repaint(
    model: Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: Fresh | None = None,
    known: Given | None = None,
    resamplings: int = 1,
) -> Tensor:
    """Denoise as `sample_ddim` does, `resamplings` (U) times in every step; `model` clamps nothing.

    Returns the latents (b, k, c, n) with what is `known` in its place. `fresh(j)` is the j-th
    noise, two a pass: for what is known, and for the way back.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings: expected 1 or more, found {resamplings}")
    x, draw = noise.float(), 0
    for i, (t, t_next) in enumerate(checked(schedule)):
        for u in range(resamplings):
            prediction = model(x, t.expand(x.shape[:2])).float()
            x_next, denoised = ddim_step(x, prediction, t, t_next, objective)
            if known is not None:
                at_level = objective.add_noise(known.latents, fresh(draw), t_next)
                x_next = _combine(known, at_level, x_next)
            if u < resamplings - 1 and t_next > 0:
                x = back(x_next, fresh(draw + 1), t, t_next, objective)
            draw += 2
        x = x_next
        report(callback, i, t, x, denoised, objective)
    return x


def back(x: Tensor, new: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V) -> Tensor:
    """`x` (b, k, c, n) at `t_next` noised again to the higher level `t` (algorithm 1, line 12)."""
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    ratio = alpha / alpha_next
    variance = sigma.square() - (ratio * sigma_next).square()
    return ratio * x + variance.clamp_min(0).sqrt() * new


def _combine(known: Given, at_level: Tensor, x: Tensor) -> Tensor:
    """Line 10: the known tracks and frames of one, the rest of the other."""
    mask = known.mask[:, :, None, None] > 0
    if known.keep is not None:
        mask = mask | (known.keep[:, :, None] > 0)
    return torch.where(mask, at_level, x)
