"""stable-audio-tools' own samplers on three tracks, by the names that its UI shows."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mge_plugin.inference.ddim import Callback, Denoiser, Fresh
from mge_plugin.inference.request import SAT_SAMPLERS
from mge_plugin.inference.schedule import Start
from mge_plugin.noise import RECTIFIED_FLOW, Objective
from mge_plugin.tracks import NUM_TRACKS, pack, unpack
from mge_plugin.upstream import sample_with_sat

SEEDS = 2**31  # of torch's global generator, which SAT's stochastic samplers draw from


def is_sats(name: str) -> bool:
    """Whether a sampler is one of stable-audio-tools' own."""
    return any(name in names for names in SAT_SAMPLERS.values())


def sample_sat(
    sampler: str,
    steps: int,
    model: Denoiser,
    noise: Tensor,
    fresh: Fresh,
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

    seed = int(fresh(0).flatten()[0].item() * 1e6) % SEEDS
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
