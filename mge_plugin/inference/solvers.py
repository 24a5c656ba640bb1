"""Solvers of second order, for good results in few steps.

Both step from level t to t_next with one estimate D of the clean latents, as DDIM does, and differ
in how they make D out of what the network said at several levels:

    x_next = sigma_next / sigma * x + alpha_next * (1 - q) * D      q = exp(-h)
    h = log-SNR(t_next) - log-SNR(t), log-SNR = log(alpha / sigma)

(arXiv 2211.01095, eq. 8). At t = 1 alpha is 0 and h infinite, at t_next = 0 too: there q = 0.
"""

import torch
from torch import Tensor

from mge_plugin.inference.ddim import Callback, Denoiser, Fresh, report
from mge_plugin.inference.schedule import checked
from mge_plugin.noise import Objective, V


def exponential_step(
    x: Tensor, denoised: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V
) -> Tensor:
    """`x` (b, k, c, n) moved from level `t` to `t_next` towards `denoised`."""
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    ratio = sigma_next / sigma
    return ratio * x + (alpha_next - ratio * alpha) * denoised


def sample_dpm_solver(
    model: Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: Fresh | None = None,
) -> Tensor:
    """DPM-Solver++ (2M), one call a step (arXiv 2211.01095, algorithm 2); as `sample_ddim`.

    D is extrapolated from the last two estimates; in the first and the last step it is one alone.
    """
    x = noise.float()
    before, step_before = None, None
    for i, (t, t_next) in enumerate(checked(schedule)):
        denoised = objective.denoised(x, model(x, t.expand(x.shape[:2])).float(), t)
        step = _log_snr(t_next, objective) - _log_snr(t, objective)
        estimate = denoised
        if before is not None and torch.isfinite(step) and torch.isfinite(step_before):
            estimate = denoised + step / (2 * step_before) * (denoised - before)
        x = exponential_step(x, estimate, t, t_next, objective)
        before, step_before = denoised, step
        report(callback, i, t, x, denoised, objective)
    return x


def sample_heun(
    model: Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: Fresh | None = None,
) -> Tensor:
    """Heun's method, two calls a step but the last (arXiv 2206.00364, algorithm 1).

    D is the mean of the estimates at both ends of the step, in the exponential form above, since
    the sampler starts where the method's own variable sigma / alpha is infinite.
    """
    x = noise.float()
    for i, (t, t_next) in enumerate(checked(schedule)):
        denoised = objective.denoised(x, model(x, t.expand(x.shape[:2])).float(), t)
        moved = exponential_step(x, denoised, t, t_next, objective)
        if t_next > 0:
            prediction = model(moved, t_next.expand(x.shape[:2])).float()
            ahead = objective.denoised(moved, prediction, t_next)
            moved = exponential_step(x, (denoised + ahead) / 2, t, t_next, objective)
        x = moved
        report(callback, i, t, x, denoised, objective)
    return x


def _log_snr(t: Tensor, objective: Objective) -> Tensor:
    alpha, sigma = objective.alpha_sigma(t.double())
    return torch.log(alpha / sigma) if t < 1 else torch.tensor(-torch.inf)
