"""The one place that hooks into stable-audio-tools' factories.

SAT chooses components by if/elif on a name in the config. Each of its factory functions is replaced
by one that checks first whether the config is ours; everything else goes to SAT's function
unchanged. The replacement happens right after the defining module is imported, before others copy
the function with `from ... import`; if SAT was imported earlier, the copies are found and replaced.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

from mge_plugin import sat

DIFFUSION_TYPE = "mge_dit"  # model.diffusion.type
_DATASET_PREFIX = "mge_"  # dataset_type
_MEL_TYPE = "mge_mel"  # model.encoder.type and model.decoder.type of an autoencoder
_MODEL_CLASS = ("mge_plugin.models.mge", "MGEModel")

_MARK = "__mge_plugin_original__"  # on a replacement: the function of SAT's that it replaces


def is_our_model(config: Any) -> bool:
    """Whether a model config names the three-track network."""
    model = config.get("model") if isinstance(config, Mapping) else None
    diffusion = model.get("diffusion") if isinstance(model, Mapping) else None
    return isinstance(diffusion, Mapping) and diffusion.get("type") == DIFFUSION_TYPE


def is_our_dataset(config: Any) -> bool:
    """Whether a dataset config is of one of our types."""
    kind = config.get("dataset_type") if isinstance(config, Mapping) else None
    return str(kind).startswith(_DATASET_PREFIX)


def is_our_coder(config: Any) -> bool:
    """Whether a section `encoder` or `decoder` of an autoencoder names ours."""
    return isinstance(config, Mapping) and config.get("type") == _MEL_TYPE


def _is_our_loaded_model(model: Any) -> bool:
    """Whether a model that is built is the three-track one; by name, so nothing is imported."""
    return any((c.__module__, c.__name__) == _MODEL_CLASS for c in type(model).__mro__)


@dataclass(frozen=True)
class _Hook:
    """A function of SAT's, mostly a factory, and the function that replaces it for our configs."""

    module: str  # in stable_audio_tools
    function: str
    is_ours: Callable[[Any], bool]
    handler: str  # module:function in mge_plugin, imported at first use, same arguments
    decides: str = "model_config"  # the argument of this name is passed to is_ours
    since: str | None = None  # the first SAT version that has the factory, if not all tested ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", f"stable_audio_tools.{self.module}")


_HOOKS = (
    _Hook(
        "models.factory", "create_model_from_config", is_our_model, "models.mge:create_mge_model"
    ),
    _Hook(
        "models.utils",
        "copy_state_dict",
        _is_our_loaded_model,
        "models.checkpoints:copy_state_dict",
        decides="model",
    ),
    _Hook(
        "models.autoencoders",
        "create_encoder_from_config",
        is_our_coder,
        "standins.mel_autoencoder:create_encoder",
        decides="encoder_config",
    ),
    _Hook(
        "models.autoencoders",
        "create_decoder_from_config",
        is_our_coder,
        "standins.mel_autoencoder:create_decoder",
        decides="decoder_config",
    ),
    _Hook(
        "training.factory",
        "create_training_wrapper_from_config",
        is_our_model,
        "training.wrapper:create_mge_training_wrapper",
    ),
    _Hook(
        "training.factory",
        "create_demo_callback_from_config",
        is_our_model,
        "training.demo:create_mge_demo_callback",
    ),
    _Hook(
        "training.factory",
        "create_metrics_callback_from_config",
        is_our_model,
        "training.demo:create_mge_metrics_callback",
        since="0.0.20",
    ),
    _Hook(
        "data.dataset",
        "create_dataloader_from_config",
        is_our_dataset,
        "data.dataset:create_mge_dataloader",
        decides="dataset_config",
    ),
    _Hook(
        "interface.interfaces.diffusion_cond",
        "create_diffusion_cond_ui",
        is_our_model,
        "interface.page:create_mge_ui",
    ),
)


def install() -> None:
    """Register every hook, now or when its module is imported; calling it twice is harmless."""
    for hook in _HOOKS:
        wrapt.register_post_import_hook(functools.partial(_replace, hook), hook.module)
    sat.install()


def installed() -> dict[str, bool]:
    """Factory name -> whether our replacement is in, for the SAT modules imported so far."""
    imported = {hook: sys.modules[hook.module] for hook in _HOOKS if hook.module in sys.modules}
    functions = {hook.function: getattr(m, hook.function, None) for hook, m in imported.items()}
    return {name: hasattr(f, _MARK) for name, f in functions.items() if f is not None}


def original(function: Callable) -> Callable:
    """The function of SAT's that a replacement replaces; any other function itself."""
    return getattr(function, _MARK, function)


def _replace(hook: _Hook, module: ModuleType) -> None:
    function = getattr(module, hook.function, None)
    if function is None and hook.since is not None:
        return
    if function is None:
        raise ImportError(
            f"{hook.module} has no {hook.function}: this stable-audio-tools is not supported, "
            "see docs/compatibility.md"
        )
    if not hasattr(function, _MARK):
        sat.replace_copies(function, _dispatcher(hook, function))


def _dispatcher(hook: _Hook, function: Callable) -> Callable:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind_partial(*args, **kwargs)
        if not hook.is_ours(bound.arguments.get(hook.decides)):
            return function(*args, **kwargs)
        place, _, name = hook.handler.partition(":")
        handler = getattr(importlib.import_module(f"mge_plugin.{place}"), name)
        return handler(*args, **kwargs)

    setattr(dispatch, _MARK, function)
    return dispatch
