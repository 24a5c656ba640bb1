"""Where stable-audio-tools fails for what this plugin needs, on the versions it is tested with.

Each mend acts only where SAT's own function would raise; elsewhere SAT's result is returned.

The one place that knows stable-audio-tools 0.0.19 from 0.0.20, and Lightning 2.1 from 2.5.
"""

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import wrapt

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


def batches_in_epoch(checkpoint: Mapping[str, Any]) -> int:
    """How many batches of its epoch a Lightning checkpoint comes after."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    return progress.get("current", {}).get("completed", 0)


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


_AUTOENCODERS = "stable_audio_tools.training.autoencoders"
_MENDED = "__mge_plugin_mended__"  # on a module: the functions in it that are
_CHIRP_TOP = (
    0.45  # highest frequency of a demo's test chirp where SAT's does not fit, x sample rate
)


@dataclass(frozen=True)
class _Mend:
    """A function of SAT's, and a wrapper (function, instance, args, kwargs) around it."""

    module: str
    function: str
    wrapper: Callable[[Callable, Any, tuple, dict], Any]


def install() -> None:
    """Mend SAT's functions as soon as their module is imported; calling it again is harmless."""
    for mend in _MENDS:
        wrapt.register_post_import_hook(functools.partial(_wrap, mend), mend.module)


def _wrap(mend: _Mend, module: ModuleType) -> None:
    target = module
    for name in mend.function.split("."):
        target = getattr(target, name, None)
    mended = vars(module).setdefault(_MENDED, set())
    if target is None or mend.function in mended:
        return  # this SAT has no such function, or it is mended already
    wrapt.wrap_function_wrapper(module, mend.function, mend.wrapper)
    mended.add(mend.function)


def _update_ratio(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> float:
    """Size of an update, learning rate x gradient, in relation to the weights; L2 norms.

    SAT 0.0.20 makes this logged figure on a GPU by name.
    """
    network, learning_rate = args[:2]
    parameters = [p for p in network.parameters() if p.requires_grad]
    if any(p.is_cuda for p in parameters):
        return sat(*args, **kwargs)
    gradients = sum(p.grad.square().sum().item() for p in parameters if p.grad is not None)
    weights = sum(p.detach().square().sum().item() for p in parameters)
    return learning_rate * gradients**0.5 / max(weights**0.5, 1e-12)


def _chirps(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    """SAT 0.0.20 adds a chirp up to 22 kHz to the demos of an autoencoder of any rate."""
    sample_rate = args[1]
    if "fmax" not in kwargs and sample_rate / 2 <= 22_000:
        kwargs = kwargs | {"fmax": _CHIRP_TOP * sample_rate}
    return sat(*args, **kwargs)


def _export(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> None:
    """SAT 0.0.20 writes an autoencoder's safetensors with a function that it does not import."""
    module = sys.modules[_AUTOENCODERS]
    if not hasattr(module, "save_model"):
        from safetensors.torch import save_model

        module.save_model = save_model
    return sat(*args, **kwargs)


def _inverse_lr(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> None:
    """SAT 0.0.19's schedule hands torch an argument that torch 2.7 and newer no longer have."""
    from torch.optim.lr_scheduler import LRScheduler

    call = inspect.signature(sat).bind(*args, **kwargs)
    call.apply_defaults()
    if "verbose" not in call.arguments or "verbose" in inspect.signature(LRScheduler).parameters:
        return sat(*args, **kwargs)
    if not 0.0 <= call.arguments["warmup"] < 1.0:
        raise ValueError("Invalid value for warmup")
    for name in ("inv_gamma", "power", "warmup", "final_lr"):
        setattr(instance, name, call.arguments[name])
    LRScheduler.__init__(instance, call.arguments["optimizer"], call.arguments["last_epoch"])


_MENDS = (
    _Mend(_AUTOENCODERS, "calc_update_to_weight_ratio", _update_ratio),
    _Mend(_AUTOENCODERS, "append_random_linear_chirps", _chirps),
    _Mend(_AUTOENCODERS, "AutoencoderTrainingWrapper.export_model", _export),
    _Mend("stable_audio_tools.training.utils", "InverseLR.__init__", _inverse_lr),
)
