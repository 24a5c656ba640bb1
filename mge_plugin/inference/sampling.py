"""Samplers: from noise to latents, by our own methods or stable-audio-tools'.

Every sampler is called as `sampler(model, noise, schedule, callback, objective, fresh, ...)` with
`model(x, t)` the prediction (b, k, c, n) at `x` of that shape and levels `t` (b, k). A given track
is clamped inside the model (`mge_plugin.models.given`), so the same loop generates and inpaints.
Levels stay on the CPU, so that no step waits for a GPU.

DPM-Solver++ and Heun step from level t to t_next with an estimate D of the clean latents, as DDIM
does, and differ in how they form D from predictions at several levels:

    x_next = sigma_next / sigma * x + alpha_next * (1 - q) * D      q = exp(-h)
    h = log-SNR(t_next) - log-SNR(t), log-SNR = log(alpha / sigma)

(arXiv 2211.01095, eq. 8). At t = 1 alpha is 0 and h infinite, at t_next = 0 too: there q = 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.config import choose
from mge_plugin.inference.request import OUR_SAMPLERS, SAT_SAMPLERS, Callback, Sampling
from mge_plugin.models.given import Given
from mge_plugin.models.noise import RECTIFIED_FLOW, Objective, V
from mge_plugin.sat import sample_with_sat
from mge_plugin.tracks import NUM_TRACKS, pack, unpack

_T_MIN = 0.02  # the lowest level of a noised track in training (paper, section 2.2)
_T_MAX_SNR = 0.998  # where the log-SNR schedule leaves level 1, whose log-SNR is infinite
_DIVERGED = 1e6  # latents have a deviation of about 1
# SAT's samplers that draw noise, or choose steps, for the whole batch: each item is sampled alone.
UNBATCHED = (
    "dpmpp-2m-sde",
    "dpmpp-3m-sde",
    "k-dpm-adaptive",
    "k-dpmpp-2s-ancestral",
    "pingpong",
)


def linear_schedule(
    steps: int, t_max: float = 1.0, t_min: float = _T_MIN, objective: Objective = V
) -> Tensor:
    """The paper's levels: linspace(1, t_min, steps), float32, (steps,)."""
    _check(steps)
    return torch.linspace(t_max, min(t_min, t_max / 2), steps)


def _log_snr_schedule(
    steps: int, t_max: float = 1.0, t_min: float = _T_MIN, objective: Objective = V
) -> Tensor:
    """Levels with evenly spaced log(alpha / sigma), after level 1 itself; (steps,).

    Few-step solvers take their steps in it (arXiv 2206.00927, section 5).
    """
    _check(steps)
    first = torch.full((min(steps, 1),), t_max)
    if steps == 1:
        return first
    starts_at_1 = t_max > _T_MAX_SNR
    first_snr = objective.log_snr(min(t_max, _T_MAX_SNR))
    last_snr = objective.log_snr(min(t_min, t_max / 2))
    log_snr = torch.linspace(first_snr, last_snr, steps - starts_at_1, dtype=torch.float64)
    levels = objective.level_of(log_snr).float()
    return torch.cat([first, levels]) if starts_at_1 else levels


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear_schedule,
    "log-snr": _log_snr_schedule,
}


def checked(schedule: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of each level and the next, the last one's is 0; levels that do not fall raise."""
    if (schedule.diff() >= 0).any():
        raise ValueError(f"schedule: levels must fall, found {schedule.tolist()}")
    levels = schedule[schedule > 0].cpu()
    lower = torch.cat([levels[1:], torch.zeros(1)])
    return list(zip(levels, lower, strict=True))


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps: a sampling run needs 1 or more, found {steps}")


_BLOCK = 16  # torch draws so many numbers together, and the last ones of a draw another way


class ItemNoise:
    """Unit noise (b, k, c, frames) of a batch; items of one seed have the same.

    Drawn on the CPU, the same for every device, and frame by frame, so that a longer song starts
    with the same noise.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str
    ) -> None:
        self.seeds = tuple(seeds)
        self.tracks, self.channels, self.frames = shape
        self.device = torch.device(device)

    def first(self) -> Tensor:
        """The noise that the run starts from."""
        return self._draw(list(self.seeds))

    def fresh(self, draw: int) -> Tensor:
        """The `draw`-th further noise."""
        return self._draw([_derive(seed, draw) for seed in self.seeds])

    def _draw(self, seeds: list[int]) -> Tensor:
        drawn = {seed: self._one(seed) for seed in dict.fromkeys(seeds)}
        noise = torch.stack([drawn[seed] for seed in seeds])
        if self.device.type == "cuda":
            noise = noise.pin_memory()
        return noise.to(self.device, non_blocking=True)

    def _one(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        frames = -(-self.frames // _BLOCK) * _BLOCK
        noise = torch.randn(frames, self.tracks, self.channels, generator=generator)
        return noise[: self.frames].permute(1, 2, 0).contiguous()


def _derive(seed: int, draw: int) -> int:
    """Another seed for each draw of a run."""
    return int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0]) >> 1


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a candidate; the first has the user's own."""
    return seed if candidate == 0 else _derive(seed, 1_000_000 + candidate)


_Denoiser = Callable[[Tensor, Tensor], Tensor]
_Fresh = Callable[[int], Tensor]  # the number of a draw -> unit noise (b, k, c, n)


def _no_noise(draw: int) -> Tensor:
    raise ValueError("fresh: this sampler draws noise, found no source of it")


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
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh = _no_noise,
    eta: float = 0.0,
) -> Tensor:
    """Denoise `noise` (b, k, c, n) along `schedule` (steps,), levels from high to low.

    Returns the last prediction of the clean latents (b, k, c, n). At a last level of 0 the model
    is not called. `eta` is the share of noise that `fresh` replaces in every step (eq. 16).
    `callback` gets i, t, sigma, x and denoised of every step.
    """
    levels = checked(schedule)
    x = denoised = noise.float()
    for i, (t, t_next) in enumerate(levels):
        prediction = model(x, t.expand(x.shape[:2])).float()
        moved, denoised = ddim_step(x, prediction, t, t_next, objective)
        if eta > 0:
            eps = objective.noise(x, prediction, t)
            moved = _renew(denoised, eps, fresh(i), t, t_next, eta, objective)
        x = moved
        _report(callback, i, t, x, denoised, objective)
    return denoised


def _renew(
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


def _report(
    callback: Callback | None, i: int, t: Tensor, x: Tensor, denoised: Tensor, objective: Objective
) -> None:
    """Call the callback after a step."""
    if callback is not None:
        sigma = objective.alpha_sigma(t)[1]
        callback({"i": i, "t": t, "sigma": sigma, "x": x, "denoised": denoised})


def _exponential_step(
    x: Tensor, denoised: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V
) -> Tensor:
    """Move `x` (b, k, c, n) from level `t` to `t_next` towards `denoised`."""
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    ratio = sigma_next / sigma
    return ratio * x + (alpha_next - ratio * alpha) * denoised


def _sample_dpm_solver(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh = _no_noise,
) -> Tensor:
    """DPM-Solver++ (2M), one call per step (arXiv 2211.01095, algorithm 2); as `sample_ddim`.

    D is extrapolated from the last two estimates; in the first and the last step it is the last.
    """
    x = noise.float()
    previous: tuple[Tensor, Tensor] | None = None  # estimate and step before
    for i, (t, t_next) in enumerate(checked(schedule)):
        denoised = objective.denoised(x, model(x, t.expand(x.shape[:2])).float(), t)
        step = _log_snr(t_next, objective) - _log_snr(t, objective)
        estimate = denoised
        if previous is not None and torch.isfinite(step) and torch.isfinite(previous[1]):
            before, step_before = previous
            estimate = denoised + step / (2 * step_before) * (denoised - before)
        x = _exponential_step(x, estimate, t, t_next, objective)
        previous = denoised, step
        _report(callback, i, t, x, denoised, objective)
    return x


def _sample_heun(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh = _no_noise,
) -> Tensor:
    """Heun's method, two calls per step but the last (arXiv 2206.00364, algorithm 1).

    D is the mean of the estimates at both ends of the step, in the exponential form above, since
    the sampler starts where the method's own variable sigma / alpha is infinite.
    """
    x = noise.float()
    for i, (t, t_next) in enumerate(checked(schedule)):
        denoised = objective.denoised(x, model(x, t.expand(x.shape[:2])).float(), t)
        moved = _exponential_step(x, denoised, t, t_next, objective)
        if t_next > 0:
            prediction = model(moved, t_next.expand(x.shape[:2])).float()
            ahead = objective.denoised(moved, prediction, t_next)
            moved = _exponential_step(x, (denoised + ahead) / 2, t, t_next, objective)
        x = moved
        _report(callback, i, t, x, denoised, objective)
    return x


def _log_snr(t: Tensor, objective: Objective) -> Tensor:
    alpha, sigma = objective.alpha_sigma(t.double())
    return torch.log(alpha / sigma) if t < 1 else torch.tensor(-torch.inf)


def _sample_repaint(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh = _no_noise,
    given: Given | None = None,
    resamplings: int = 1,
) -> Tensor:
    """RePaint: inpainting with one level for all tracks (paper, algorithm 1; arXiv 2201.09865).

    For networks that were not trained with clean tracks among noised ones, and to compare with.
    Steps as in `sample_ddim`, each done `resamplings` (U) times; U = 1 is the canonical one-sample
    method (paper, appendix B.1). `model` clamps nothing: the `given` tracks and kept frames are
    noised again in every step. `fresh(j)` is the j-th noise, two per pass: for what is given, and
    for the way back.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings: expected 1 or more, found {resamplings}")
    x, draw = noise.float(), 0
    for i, (t, t_next) in enumerate(checked(schedule)):
        for u in range(resamplings):
            prediction = model(x, t.expand(x.shape[:2])).float()
            x_next, denoised = ddim_step(x, prediction, t, t_next, objective)
            if given is not None:
                at_level = objective.add_noise(given.latents, fresh(draw), t_next)
                x_next = _combine(given, at_level, x_next)
            if u < resamplings - 1 and t_next > 0:
                x = _back(x_next, fresh(draw + 1), t, t_next, objective)
            draw += 2
        x = x_next
        _report(callback, i, t, x, denoised, objective)
    return x


def _back(x: Tensor, new: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V) -> Tensor:
    """Add noise to `x` (b, k, c, n) from `t_next` up to `t` (algorithm 1, line 12)."""
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    ratio = alpha / alpha_next
    variance = sigma.square() - (ratio * sigma_next).square()
    return ratio * x + variance.clamp_min(0).sqrt() * new


def _combine(given: Given, at_level: Tensor, x: Tensor) -> Tensor:
    """Line 10: given tracks and kept frames of `at_level`, the rest of `x`."""
    mask = given.mask[:, :, None, None] > 0
    if given.keep is not None:
        mask = mask | (given.keep[:, :, None] > 0)
    return torch.where(mask, at_level, x)


_SEEDS = 2**31  # of torch's global generator, which SAT's stochastic samplers draw from


def _sample_sat(
    sampling: Sampling,
    model: Callable[..., Any],
    noise: Tensor,
    fresh: _Fresh,
    callback: Callback | None,
    objective: Objective,
    init: tuple[Tensor, float] | None,
) -> Tensor:
    """Latents (b, k, c, n) by one of SAT's samplers, with its own schedule.

    Those that draw noise use torch's global generator: it is seeded from `fresh`, and restored.
    """

    def network(x: Tensor, t: Tensor, return_info: bool = False, **_: Any) -> Any:
        tracks, levels = unpack(x), t[:, None].expand(-1, NUM_TRACKS)
        if not return_info:
            return pack(model(tracks, levels))
        prediction, away = model(tracks, levels, return_negative=True)
        return pack(prediction), {"uncond_output": pack(away)}

    def hook(step: Mapping[str, Any]) -> None:
        if callback is not None:
            callback(_sat_step(step, objective))

    seed = int(fresh(0).flatten()[0].item() * 1e6) % _SEEDS
    devices = [noise.device] if noise.device.type == "cuda" else []
    options: dict[str, Any] = {}
    if init is not None:
        options = {"init": pack(init[0]), "level": init[1]}
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        latents = sample_with_sat(
            network,
            pack(noise),
            sampling.sampler,
            sampling.steps,
            objective is RECTIFIED_FLOW,
            hook,
            **options,
        )
    return unpack(latents)


def _sat_step(step: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
    """The step that SAT's callback describes, as ours; k-diffusion's sigma is sigma / alpha."""
    level = step.get("t")
    if "sigma_hat" in step and objective is not RECTIFIED_FLOW:
        level = torch.as_tensor(step["sigma"]).atan() * 2 / math.pi
    level = torch.as_tensor(level)
    return {
        "i": step["i"],
        "t": level,
        "sigma": objective.alpha_sigma(level)[1],
        "x": unpack(step["x"]),
        "denoised": unpack(step["denoised"]),
    }


_SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "dpm-solver++": _sample_dpm_solver,
    "heun": _sample_heun,
    "repaint": _sample_repaint,
}


def sample(
    sampling: Sampling,
    model: Callable[..., Any],
    noise: ItemNoise,
    callback: Callback | None = None,
    objective: Objective = V,
    given: Given | None = None,
    init: tuple[Tensor, float] | None = None,
) -> Tensor:
    """Latents (b, k, c, n) by the sampler that `sampling` names.

    `init` are latents (b, k, c, n) to start from and the level (t) that they are noised to. `given`
    is for a sampler whose model clamps nothing (RePaint). Latents that diverge raise ValueError.
    """
    x = noise.first()
    if sampling.sampler not in OUR_SAMPLERS:
        latents = _sample_sat(sampling, model, x, noise.fresh, callback, objective, init)
    else:
        t_max = 1.0 if init is None else init[1]
        schedule = SCHEDULES[sampling.schedule](sampling.steps, t_max, objective=objective)
        if init is not None:
            x = objective.add_noise(init[0], x, torch.tensor(t_max))
        options: dict[str, Any] = {}
        if sampling.sampler == "ddim":
            options = {"eta": sampling.eta}
        if sampling.sampler == "repaint":
            options = {"given": given, "resamplings": sampling.resamplings}
        sampler = _SAMPLERS[sampling.sampler]
        latents = sampler(model, x, schedule, callback, objective, noise.fresh, **options)
    if not latents.abs().max() < _DIVERGED:
        raise ValueError(
            f"sampler {sampling.sampler} diverged with {sampling.steps} steps: use more steps or "
            "another sampler; if dpm-solver++ diverges too, the weights are damaged"
        )
    return latents


def sampler_names(objective: str = "v") -> tuple[str, ...]:
    """The samplers that a model with this diffusion objective can use."""
    return (*OUR_SAMPLERS, *SAT_SAMPLERS[objective])


def check_sampler(name: str, objective: str) -> None:
    """Raise ConfigError, with the nearest name, for a sampler that the objective cannot use."""
    choose("sampler", name, dict.fromkeys(sampler_names(objective)))
