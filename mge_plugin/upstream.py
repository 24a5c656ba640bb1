"""The one place that knows stable-audio-tools 0.0.19 from 0.0.20, and Lightning 2.1 from 2.5."""

import math
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from mge_plugin.config import ConfigError

DISTRIBUTION = "stable-audio-tools"
TESTED_VERSIONS = ("0.0.19", "0.0.20")
SIGMA_MIN, SIGMA_MAX = 0.01, 100.0  # SAT's ends of k-diffusion's schedules, noise to signal


def sat_version() -> str | None:
    """The installed version of stable-audio-tools, None if there is none."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def train_loader(trainer: Any) -> Any:
    """The loader given to `Trainer.fit`, before Lightning iterates it.

    Lightning shows it only once it has begun to fetch from it, too late to skip items; where it
    keeps it until then is the same in 2.1 and 2.5.
    """
    return trainer.fit_loop._data_source.instance


def count_finished_batch(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint written at the end of a batch say that the batch is completed.

    Lightning 2.1 writes it just before it counts the batch, and would count one too many in the
    epoch after a resume; 2.5 does this itself.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    for span in ("current", "total"):
        if span in progress:
            progress[span]["completed"] = progress[span]["processed"]


def lora_options(config: dict[str, Any] | None, ckpt_path: str | None) -> dict[str, Any]:
    """Arguments of SAT's training wrapper for LoRA, which came with 0.0.20; none if not asked."""
    if config is None:
        return {}
    if not find_spec("stable_audio_tools.models.lora"):
        raise ConfigError(
            f"training.lora_config: needs stable-audio-tools 0.0.20, installed is {sat_version()}"
        )
    if ckpt_path is None:
        return {"lora_config": config}
    from stable_audio_tools.models.utils import load_ckpt_state_dict

    return {"lora_config": config, "lora_state_dict": load_ckpt_state_dict(ckpt_path)}


def ema_model(training_wrapper: Any) -> Any:
    """The averaged network if there is one, else the trained one."""
    average = training_wrapper.diffusion_ema
    return training_wrapper.diffusion.model if average is None else average.ema_model


def sample_with_sat(
    network: Any,
    noise: Any,
    sampler: str,
    steps: int,
    rectified_flow: bool = False,
    callback: Any = None,
    init: Any = None,
    level: float = 1.0,
) -> Any:
    """Run one of SAT's samplers on `noise` (b, channel, frame); `network` is called with x and t.

    It begins from `init` of that shape, noised to `level` (t), if there is one. 0.0.20 gave its
    rectified-flow samplers another front door, `sample_diffusion`.
    """
    from stable_audio_tools.inference import sampling

    options = {"steps": steps, "sampler_type": sampler, "callback": callback, "init_data": init}
    if not rectified_flow:
        ratio = SIGMA_MAX if level == 1.0 else math.tan(level * math.pi / 2)
        options["sigma_max"] = level if sampler.startswith("v-") else ratio
        options |= {"sigma_min": SIGMA_MIN, "device": noise.device}
        return sampling.sample_k(network, noise, **options)
    if hasattr(sampling, "sample_rf"):
        return sampling.sample_rf(network, noise, device=noise.device, sigma_max=level, **options)
    options["init_noise_level"] = level
    return sampling.sample_diffusion(network, noise, {}, "rectified_flow", **options)
