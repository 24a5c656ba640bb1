"""Where stable-audio-tools fails for what this plugin needs, on the versions it is tested with.

Each mend acts only where SAT's own function would raise; elsewhere SAT's result is returned.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

AUTOENCODERS = "stable_audio_tools.training.autoencoders"
_MENDED = "__mge_plugin_mended__"  # on a module: the functions in it that are
CHIRP_TOP = 0.45  # highest frequency of a demo's test chirp where SAT's does not fit, x sample rate


@dataclass(frozen=True)
class Mend:
    """A function of SAT's, and a wrapper (function, instance, args, kwargs) around it."""

    module: str
    function: str
    wrapper: Callable[[Callable, Any, tuple, dict], Any]


def install() -> None:
    """Mend SAT's functions as soon as their module is imported; calling it again is harmless."""
    for mend in MENDS:
        wrapt.register_post_import_hook(functools.partial(_wrap, mend), mend.module)


def _wrap(mend: Mend, module: ModuleType) -> None:
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
        kwargs = kwargs | {"fmax": CHIRP_TOP * sample_rate}
    return sat(*args, **kwargs)


def _export(sat: Callable, instance: Any, args: tuple, kwargs: dict) -> None:
    """SAT 0.0.20 writes an autoencoder's safetensors with a function that it does not import."""
    module = sys.modules[AUTOENCODERS]
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


MENDS = (
    Mend(AUTOENCODERS, "calc_update_to_weight_ratio", _update_ratio),
    Mend(AUTOENCODERS, "append_random_linear_chirps", _chirps),
    Mend(AUTOENCODERS, "AutoencoderTrainingWrapper.export_model", _export),
    Mend("stable_audio_tools.training.utils", "InverseLR.__init__", _inverse_lr),
)
