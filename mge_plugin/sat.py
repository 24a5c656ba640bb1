"""Differences between stable-audio-tools 0.0.19 and 0.0.20 and Lightning 2.1 and 2.5; workarounds.

No other module names a version. A workaround wraps a function of SAT's or Lightning's that fails
for this plugin's users on a tested version; where the function works, its result is returned.
"""

import functools
import inspect
import logging
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

from mge_plugin.config import ConfigError
from mge_plugin.files import is_zip, remove_abandoned

logger = logging.getLogger(__name__)

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

    Lightning's public property has it only after the first batch was fetched, too late to skip
    items; the private place is the same in 2.1 and 2.5.
    """
    return trainer.fit_loop._data_source.instance


def count_finished_batch(checkpoint: dict[str, Any]) -> None:
    """Count the last batch as completed in a checkpoint that is written at its end.

    Lightning 2.1 writes the checkpoint just before it counts the batch, and would count one too
    many in the epoch after a resume; 2.5 does this itself.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    for span in ("current", "total"):
        if span in progress:
            progress[span]["completed"] = progress[span]["processed"]


def batches_in_epoch(checkpoint: Mapping[str, Any]) -> int:
    """The batches of its epoch that a Lightning checkpoint comes after."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    return progress.get("current", {}).get("completed", 0)


def lora_options(config: dict | None, ckpt_path: str | None) -> dict[str, Any]:
    """Arguments of SAT's training wrapper for LoRA, which only 0.0.20 has; none if unset."""
    if config is None:
        return {}
    if not find_spec("stable_audio_tools.models.lora"):
        raise ConfigError(
            f"training.lora_config: needs stable-audio-tools 0.0.20, installed is {sat_version()}"
        )
    if ckpt_path is None:
        return {"lora_config": config}
    utils = import_module("stable_audio_tools.models.utils")
    return {"lora_config": config, "lora_state_dict": utils.load_ckpt_state_dict(ckpt_path)}


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

    It starts from `init` of that shape, noised to `level` (t), if there is one. 0.0.20 calls its
    rectified-flow samplers through another function, `sample_diffusion`.
    """
    sampling = import_module("stable_audio_tools.inference.sampling")
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
_UTILS = "stable_audio_tools.models.utils"
_DONE = "__mge_plugin_workarounds__"  # on a module: the functions in it that are wrapped
_CHIRP_TOP = (
    0.45  # highest frequency of a demo's test chirp, x sample rate, where SAT's is too high
)


@dataclass(frozen=True)
class _Workaround:
    """A function, and a wrapper (function, instance, args, kwargs) around it."""

    module: str
    function: str
    wrapper: Callable[[Callable, Any, tuple, dict], Any]


def install() -> None:
    """Wrap the functions as soon as their module is imported; calling it twice is harmless."""
    for workaround in _WORKAROUNDS:
        hook = functools.partial(_wrap, workaround)
        wrapt.register_post_import_hook(hook, workaround.module)


def _wrap(workaround: _Workaround, module: ModuleType) -> None:
    target: Any = module
    for name in workaround.function.split("."):
        target = getattr(target, name, None)
    done = vars(module).setdefault(_DONE, set())
    if target is None or workaround.function in done:
        return  # this version has no such function, or it is wrapped already
    wrapt.wrap_function_wrapper(module, workaround.function, workaround.wrapper)
    if "." not in workaround.function:
        replace_copies(target, getattr(module, workaround.function))
    done.add(workaround.function)


def replace_copies(original: Callable, replacement: Callable) -> None:
    """Replace `original` in its own module and in every module that has imported it."""
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict):
            continue
        for name in [name for name, value in namespace.items() if value is original]:
            namespace[name] = replacement


def _update_ratio(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> float:
    """SAT 0.0.20 computes this logged figure on a GPU by name.

    Size of an update, learning rate x gradient, in relation to the weights; L2 norms.
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
    module = vars(sys.modules[_AUTOENCODERS])
    if "save_model" not in module:
        module["save_model"] = import_module("safetensors.torch").save_model
    return sat(*args, **kwargs)


_recon_folder = Path()  # of the trainer whose demo is being made


def _vae_demo(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    """Note the run's folder for `_log_audio`."""
    global _recon_folder
    _recon_folder = Path(args[0].default_root_dir)
    return sat(*args, **kwargs)


def _log_audio(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    """SAT deletes an autoencoder's reconstructions after logging them, without a logger too."""
    to, _, wav = args[:3]
    if to is None:
        folder = _recon_folder / "demos"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wav, folder)
    return sat(*args, **kwargs)


def _inverse_lr(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> None:
    """SAT 0.0.19's schedule passes an argument to torch that torch 2.7 and newer do not have."""
    scheduler = import_module("torch.optim.lr_scheduler").LRScheduler
    call = inspect.signature(sat).bind(*args, **kwargs)
    call.apply_defaults()
    if "verbose" not in call.arguments or "verbose" in inspect.signature(scheduler).parameters:
        return sat(*args, **kwargs)
    if not 0.0 <= call.arguments["warmup"] < 1.0:
        raise ValueError("Invalid value for warmup")
    for name in ("inv_gamma", "power", "warmup", "final_lr"):
        setattr(instance, name, call.arguments[name])
    scheduler.__init__(instance, call.arguments["optimizer"], call.arguments["last_epoch"])


def _load_ckpt(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    """SAT reports an unreadable file by a traceback of torch's, and does not know `_orig_mod.`."""
    checkpoints = import_module("mge_plugin.models.checkpoints")
    path = args[0] if args else kwargs["ckpt_path"]
    try:
        weights = sat(*args, **kwargs)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        raise checkpoints.explain(Path(path), error) from error
    return {key.replace("_orig_mod.", ""): value for key, value in weights.items()}


def _atomic_save(lightning: Callable, instance: Any, args: tuple, kwargs: dict) -> None:
    """Lightning's checkpoint gets its final name before it is whole, on another file system.

    It writes to the folder of temporary files and moves the result, which copies there. What
    killed runs left in the checkpoint's folder is removed.
    """
    checkpoint, path = args
    if "://" in str(path):
        return lightning(*args, **kwargs)
    torch = import_module("torch")
    remove_abandoned(Path(path).parent)
    with import_module("mge_plugin.models.checkpoints").write_tensors(Path(path)) as partial:
        torch.save(checkpoint, partial)


def _fit(lightning: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
    """A folder as `ckpt_path` stands for its newest whole checkpoint."""
    path = kwargs.get("ckpt_path")
    if path is not None and Path(path).is_dir() and any(Path(path).rglob("*.ckpt")):
        kwargs = kwargs | {"ckpt_path": str(_newest_checkpoint(Path(path)))}
        logger.info("resuming from %s", kwargs["ckpt_path"])
    return lightning(*args, **kwargs)


def _newest_checkpoint(folder: Path) -> Path:
    """The newest `.ckpt` file in a folder and its subfolders that is not cut off."""
    paths = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        if is_zip(path):
            return path
        logger.warning("%s: not whole, passed over", path)
    raise FileNotFoundError(f"{folder}: no whole checkpoint")


_WORKAROUNDS = (
    _Workaround(_AUTOENCODERS, "calc_update_to_weight_ratio", _update_ratio),
    _Workaround(_AUTOENCODERS, "append_random_linear_chirps", _chirps),
    _Workaround(_AUTOENCODERS, "AutoencoderTrainingWrapper.export_model", _export),
    _Workaround(_AUTOENCODERS, "AutoencoderDemoCallback.on_train_batch_end", _vae_demo),
    _Workaround(_AUTOENCODERS, "log_audio", _log_audio),
    _Workaround("stable_audio_tools.training.utils", "InverseLR.__init__", _inverse_lr),
    _Workaround(_UTILS, "load_ckpt_state_dict", _load_ckpt),
    _Workaround("lightning_fabric.utilities.cloud_io", "_atomic_save", _atomic_save),
    _Workaround("pytorch_lightning.trainer.trainer", "Trainer.fit", _fit),
)
