"""The one place that hooks into stable-audio-tools' factories.

SAT chooses components by if/elif on a name in the config. Each of its factory functions is replaced
by one that asks first whether the config is ours; everything else goes to SAT's function untouched.
The replacement happens right after the defining module is imported, before others copy the function
with `from ... import`; if SAT was imported earlier, the copies are found and replaced too.
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

from mge_plugin import sat as mends

DIFFUSION_TYPE = "mge_dit"  # model.diffusion.type
_DATASET_PREFIX = "mge_"  # dataset_type
_MEL_TYPE = "mge_mel"  # model.encoder.type and model.decoder.type of an autoencoder
DIFFUSION_UI = "stable_audio_tools.interface.interfaces.diffusion_cond"

_MARK = "__mge_plugin_original__"  # on a replacement: the function of SAT's that it stands for


def is_our_model(config: Any) -> bool:
    """Whether a model config asks for the three-track network."""
    model = config.get("model") if isinstance(config, Mapping) else None
    diffusion = model.get("diffusion") if isinstance(model, Mapping) else None
    return isinstance(diffusion, Mapping) and diffusion.get("type") == DIFFUSION_TYPE


def is_our_dataset(config: Any) -> bool:
    """Whether a dataset config is of one of our types."""
    kind = config.get("dataset_type") if isinstance(config, Mapping) else None
    return str(kind).startswith(_DATASET_PREFIX)


def is_our_coder(config: Any) -> bool:
    """Whether a section `encoder` or `decoder` of an autoencoder asks for ours."""
    return isinstance(config, Mapping) and config.get("type") == _MEL_TYPE


def _is_our_loaded_model(model: Any) -> bool:
    """Whether a model that SAT has built is the three-track network."""
    from mge_plugin.models.mge import MGEModel

    return isinstance(model, MGEModel)


@dataclass(frozen=True)
class _Hook:
    """One function of SAT's, mostly a factory, and what does its work where it is for us."""

    module: str
    function: str
    is_ours: Callable[[Any], bool]
    handler: str  # module:function, imported at first use, called with the function's arguments
    decides: str = "model_config"  # what is_ours is shown: the argument of this name, or
    in_module: bool = False  # the module's variable of this name
    since: str | None = None  # the first SAT version that has the factory, if not all tested ones

    def shown(self, module: ModuleType, arguments: Mapping[str, Any]) -> Any:
        """What `is_ours` looks at in a call with `arguments` by name; None if it is left out."""
        return (vars(module) if self.in_module else arguments).get(self.decides)


HOOKS = (
    _Hook(
        "stable_audio_tools.models.factory",
        "create_model_from_config",
        is_our_model,
        "mge_plugin.models.mge:create_mge_model",
    ),
    _Hook(
        "stable_audio_tools.training.factory",
        "create_training_wrapper_from_config",
        is_our_model,
        "mge_plugin.training.wrapper:create_mge_training_wrapper",
    ),
    _Hook(
        "stable_audio_tools.training.factory",
        "create_demo_callback_from_config",
        is_our_model,
        "mge_plugin.training.demo:create_mge_demo_callback",
    ),
    _Hook(
        "stable_audio_tools.training.factory",
        "create_metrics_callback_from_config",
        is_our_model,
        "mge_plugin.training.demo:create_mge_metrics_callback",
        since="0.0.20",
    ),
    _Hook(
        "stable_audio_tools.models.autoencoders",
        "create_encoder_from_config",
        is_our_coder,
        "mge_plugin.standins.mel_autoencoder:create_encoder",
        decides="encoder_config",
    ),
    _Hook(
        "stable_audio_tools.models.autoencoders",
        "create_decoder_from_config",
        is_our_coder,
        "mge_plugin.standins.mel_autoencoder:create_decoder",
        decides="decoder_config",
    ),
    _Hook(
        "stable_audio_tools.data.dataset",
        "create_dataloader_from_config",
        is_our_dataset,
        "mge_plugin.data.dataset:create_mge_dataloader",
        decides="dataset_config",
    ),
    _Hook(
        DIFFUSION_UI,
        "create_diffusion_cond_ui",
        is_our_model,
        "mge_plugin.interface.page:create_mge_ui",
    ),
)


def install() -> None:
    """Put every hook in, now or as soon as its module is imported; calling it again is harmless."""
    for hook in HOOKS:
        wrapt.register_post_import_hook(functools.partial(_replace, hook), hook.module)
    mends.install()


def installed() -> dict[str, bool]:
    """Factory name -> whether our replacement is in, for the SAT modules imported so far."""
    imported = {hook: sys.modules[hook.module] for hook in HOOKS if hook.module in sys.modules}
    functions = {hook.function: getattr(m, hook.function, None) for hook, m in imported.items()}
    return {name: hasattr(f, _MARK) for name, f in functions.items() if f is not None}


def original(function: Callable) -> Callable:
    """The function of SAT's that a replacement stands for; any other function itself."""
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
        _replace_copies(function, _dispatcher(hook, module, function))


def _dispatcher(hook: _Hook, module: ModuleType, function: Callable) -> Callable:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind_partial(*args, **kwargs)
        if not hook.is_ours(hook.shown(module, bound.arguments)):
            return function(*args, **kwargs)
        place, _, name = hook.handler.partition(":")
        return getattr(importlib.import_module(place), name)(*args, **kwargs)

    setattr(dispatch, _MARK, function)
    return dispatch


def _replace_copies(original: Callable, replacement: Callable) -> None:
    """Replace `original` in its own module and in every module that has imported it."""
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict):
            continue
        for name in [name for name, value in namespace.items() if value is original]:
            namespace[name] = replacement
