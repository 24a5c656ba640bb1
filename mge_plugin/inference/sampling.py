"""Every sampler by its name: ours, and stable-audio-tools' own.

The noise levels that a sampling run visits, from `t_max` down; the run ends at level 0.

The noise of a run: drawn on the CPU by each item's seed, the same on every device.

DDIM over tracks (paper, algorithm 2; arXiv 2010.02502).

The network itself holds given tracks clean and at level 0 (`mge_plugin.models.given`), so one loop
serves generation and inpainting.

Solvers of second order, for good results in few steps.

Both step from level t to t_next with one estimate D of the clean latents, as DDIM does, and differ
in how they make D out of what the network said at several levels:

    x_next = sigma_next / sigma * x + alpha_next * (1 - q) * D      q = exp(-h)
    h = log-SNR(t_next) - log-SNR(t), log-SNR = log(alpha / sigma)

(arXiv 2211.01095, eq. 8). At t = 1 alpha is 0 and h infinite, at t_next = 0 too: there q = 0.

Inpainting with one level for all tracks: RePaint (paper, algorithm 1; arXiv 2201.09865).

For networks that never saw a clean track among noised ones, and to compare with. What is known is
noised anew in every step; with U resamplings each step is gone back and repeated. U = 1 is the
canonical one-sample method (paper, appendix B.1).

stable-audio-tools' own samplers on three tracks, by the names that its UI shows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mge_plugin.config import choose
from mge_plugin.inference.request import SAT_SAMPLERS
from mge_plugin.models.given import Given
from mge_plugin.models.noise import RECTIFIED_FLOW, Objective, V
from mge_plugin.sat import sample_with_sat
from mge_plugin.tracks import NUM_TRACKS, pack, unpack

T_MIN = 0.02  # the lowest level of a noised track in training (paper, section 2.2)
_T_MAX_SNR = 0.998  # where the log-SNR schedule leaves level 1, whose log-SNR is infinite


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
    begins_at_1 = t_max > _T_MAX_SNR
    ends = (
        -math.log(math.tan(t * math.pi / 2))
        for t in (min(t_max, _T_MAX_SNR), min(t_min, t_max / 2))
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


BLOCK = 16  # torch draws so many numbers together, and the last ones of a draw another way


class ItemNoise:
    """Unit noise (b, k, c, frames) of a batch; items of one seed have the same.

    Drawn frame by frame, so that a longer song begins with the same noise.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str
    ) -> None:
        self.seeds = tuple(seeds)
        self.tracks, self.channels, self.frames = shape
        self.device = device

    def first(self) -> Tensor:
        """What the run starts from."""
        return self._draw(list(self.seeds))

    def fresh(self, draw: int) -> Tensor:
        """The `draw`-th noise of a sampler that needs more."""
        return self._draw([_derive(seed, draw) for seed in self.seeds])

    def _draw(self, seeds: list[int]) -> Tensor:
        drawn = {seed: self._one(seed) for seed in dict.fromkeys(seeds)}
        return torch.stack([drawn[seed] for seed in seeds]).to(self.device)

    def _one(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        frames = -(-self.frames // BLOCK) * BLOCK
        noise = torch.randn(frames, self.tracks, self.channels, generator=generator)
        return noise[: self.frames].permute(1, 2, 0).contiguous()


def _derive(seed: int, draw: int) -> int:
    """Another seed for each draw of a run."""
    return int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0]) >> 1


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a further candidate; the first has the user's own."""
    return seed if candidate == 0 else _derive(seed, 1_000_000 + candidate)


_Denoiser = Callable[
    [Tensor, Tensor], Tensor
]  # x (b, k, c, n), t (b, k) -> prediction (b, k, c, n)
Callback = Callable[[Mapping[str, Any]], None]
_Fresh = Callable[[int], Tensor]  # the number of a draw -> unit noise (b, k, c, n)


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
    fresh: _Fresh | None = None,
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


def _exponential_step(
    x: Tensor, denoised: Tensor, t: Tensor, t_next: Tensor, objective: Objective = V
) -> Tensor:
    """`x` (b, k, c, n) moved from level `t` to `t_next` towards `denoised`."""
    (alpha, sigma), (alpha_next, sigma_next) = map(objective.alpha_sigma, (t, t_next))
    ratio = sigma_next / sigma
    return ratio * x + (alpha_next - ratio * alpha) * denoised


def sample_dpm_solver(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh | None = None,
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
        x = _exponential_step(x, estimate, t, t_next, objective)
        before, step_before = denoised, step
        report(callback, i, t, x, denoised, objective)
    return x


def sample_heun(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh | None = None,
) -> Tensor:
    """Heun's method, two calls a step but the last (arXiv 2206.00364, algorithm 1).

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
        report(callback, i, t, x, denoised, objective)
    return x


def _log_snr(t: Tensor, objective: Objective) -> Tensor:
    alpha, sigma = objective.alpha_sigma(t.double())
    return torch.log(alpha / sigma) if t < 1 else torch.tensor(-torch.inf)


def sample_repaint(
    model: _Denoiser,
    noise: Tensor,
    schedule: Tensor,
    callback: Callback | None = None,
    objective: Objective = V,
    fresh: _Fresh | None = None,
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


_SEEDS = 2**31  # of torch's global generator, which SAT's stochastic samplers draw from


def _is_sats(name: str) -> bool:
    """Whether a sampler is one of stable-audio-tools' own."""
    return any(name in names for names in SAT_SAMPLERS.values())


def _sample_sat(
    sampler: str,
    steps: int,
    model: _Denoiser,
    noise: Tensor,
    fresh: _Fresh,
    callback: Callback | None,
    objective: Objective,
    start: Start | None = None,
) -> Tensor:
    """Latents (b, k, c, n) by SAT's sampler of that name, with its own schedule.

    Those that draw noise draw from torch's global generator: it is seeded from `fresh`, and put
    back as it was.
    """

    def network(x: Tensor, t: Tensor, return_info: bool = False, **_: Any) -> Any:
        tracks, levels = unpack(x), t[:, None].expand(-1, NUM_TRACKS)
        if not return_info:
            return pack(model(tracks, levels))
        prediction, info = model(tracks, levels, return_info=True)
        return pack(prediction), {"uncond_output": pack(info["uncond_output"])}

    def told(step: Mapping[str, Any]) -> None:
        callback(_step(step, objective))

    seed = int(fresh(0).flatten()[0].item() * 1e6) % _SEEDS
    devices = [noise.device] if noise.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        hook = None if callback is None else told
        flow = objective is RECTIFIED_FLOW
        options = {}
        if start is not None:
            options = {"init": pack(start.latents), "level": start.level}
        latents = sample_with_sat(network, pack(noise), sampler, steps, flow, hook, **options)
    return unpack(latents)


def _step(step: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
    """SAT's report of a step as ours; k-diffusion's sigma is the ratio of noise to signal."""
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


@dataclass(frozen=True)
class Method:
    """How to get from noise to latents; a part of what a user asks of a run."""

    sampler: str = "ddim"  # ddim, dpm-solver++, heun, repaint, or a name of SAT's
    steps: int = 250
    schedule: str = "linear"  # the paper's, or log-snr; SAT's samplers have their own
    eta: float = 0.0  # of ddim: the share of noise drawn anew in every step
    resamplings: int = 1  # of repaint: U

    @property
    def clamps(self) -> bool:
        """Whether the network holds given tracks clean; RePaint noises them instead."""
        return self.sampler != "repaint"

    def run(
        self,
        model: _Denoiser,
        noise: Tensor,
        fresh: _Fresh,
        callback: Callback | None = None,
        objective: Objective = V,
        known: Given | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Latents (b, k, c, n) from `noise`, and from those to `start` with if there are any.

        `known` is for a sampler that clamps nothing.
        """
        if _is_sats(self.sampler):
            return _sample_sat(
                self.sampler, self.steps, model, noise, fresh, callback, objective, start
            )
        schedule = SCHEDULES[self.schedule](self.steps)
        if start is not None:
            schedule = SCHEDULES[self.schedule](self.steps, start.level)
            noise = objective.add_noise(start.latents, noise, torch.tensor(start.level))
        options = {"ddim": {"eta": self.eta}}.get(self.sampler, {})
        if not self.clamps:
            options = {"known": known, "resamplings": self.resamplings}
        sampler = SAMPLERS[self.sampler]
        return sampler(model, noise, schedule, callback, objective, fresh, **options)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "dpm-solver++": sample_dpm_solver,
    "heun": sample_heun,
    "repaint": sample_repaint,
}


def sampler_names(objective: str = "v") -> tuple[str, ...]:
    """The samplers that a model of this diffusion objective can use."""
    return (*SAMPLERS, *SAT_SAMPLERS[objective])


def check_sampler(name: str, objective: str) -> None:
    """Raise ConfigError, with the nearest name, for a sampler that the objective has not."""
    choose("sampler", name, dict.fromkeys(sampler_names(objective)))
