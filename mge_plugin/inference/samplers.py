"""Every sampler by its name: ours, and stable-audio-tools' own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mge_plugin.config import choose
from mge_plugin.inference import sat_samplers
from mge_plugin.inference.ddim import Callback, Denoiser, Fresh, sample_ddim
from mge_plugin.inference.repaint import sample_repaint
from mge_plugin.inference.request import SAT_SAMPLERS
from mge_plugin.inference.schedule import SCHEDULES, Start
from mge_plugin.inference.solvers import sample_dpm_solver, sample_heun
from mge_plugin.models.given import Given
from mge_plugin.noise import Objective, V


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
        model: Denoiser,
        noise: Tensor,
        fresh: Fresh,
        callback: Callback | None = None,
        objective: Objective = V,
        known: Given | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Latents (b, k, c, n) from `noise`, and from those to `start` with if there are any.

        `known` is for a sampler that clamps nothing.
        """
        if sat_samplers.is_sats(self.sampler):
            return sat_samplers.sample_sat(
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
