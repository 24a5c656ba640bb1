"""The one place that hooks into stable-audio-tools' factories.

SAT chooses components by if/elif on a name in the config. Each of its factory functions is replaced
by one that asks first whether the config is ours; everything else goes to SAT's function untouched.
The replacement happens right after the defining module is imported, before others copy the function
with `from ... import`; if SAT was imported earlier, the copies are found and replaced too.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

from mge_plugin import mends

DIFFUSION_TYPE = "mge_dit"  # model.diffusion.type
DATASET_PREFIX = "mge_"  # dataset_type

_MARK = "__mge_plugin_original__"  # on a replacement: the function of SAT's that it stands for


def is_our_model(config: Mapping[str, Any]) -> bool:
    """Whether a model config asks for the three-track network."""
    model = config.get("model")
    diffusion = model.get("diffusion") if isinstance(model, Mapping) else None
    return isinstance(diffusion, Mapping) and diffusion.get("type") == DIFFUSION_TYPE


def is_our_dataset(config: Mapping[str, Any]) -> bool:
    """Whether a dataset config is of one of our types."""
    return str(config.get("dataset_type", "")).startswith(DATASET_PREFIX)


@dataclass(frozen=True)
class Hook:
    """One factory of SAT's, and what builds our components in its place."""

    module: str
    function: str
    is_ours: Callable[[Mapping[str, Any]], bool]
    handler: str  # module:function, imported at first use, called with the factory's arguments
    since: str | None = None  # the first SAT version that has the factory, if not all tested ones


HOOKS = (
    Hook(
        "stable_audio_tools.models.factory",
        "create_model_from_config",
        is_our_model,
        "mge_plugin.models.mge:create_mge_model",
    ),
    Hook(
        "stable_audio_tools.training.factory",
        "create_training_wrapper_from_config",
        is_our_model,
        "mge_plugin.training.wrapper:create_mge_training_wrapper",
    ),
    Hook(
        "stable_audio_tools.training.factory",
        "create_demo_callback_from_config",
        is_our_model,
        "mge_plugin.training.demo:create_mge_demo_callback",
    ),
    Hook(
        "stable_audio_tools.training.factory",
        "create_metrics_callback_from_config",
        is_our_model,
        "mge_plugin.training.demo:create_mge_metrics_callback",
        since="0.0.20",
    ),
    Hook(
        "stable_audio_tools.data.dataset",
        "create_dataloader_from_config",
        is_our_dataset,
        "mge_plugin.data.loaders:create_mge_dataloader",
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


def _replace(hook: Hook, module: ModuleType) -> None:
    original = getattr(module, hook.function, None)
    if original is None and hook.since is not None:
        return
    if original is None:
        raise ImportError(
            f"{hook.module} has no {hook.function}: this stable-audio-tools is not supported, "
            "see docs/compatibility.md"
        )
    if not hasattr(original, _MARK):
        _replace_copies(original, _dispatcher(hook, original))


def _dispatcher(hook: Hook, original: Callable) -> Callable:
    @functools.wraps(original)
    def dispatch(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not hook.is_ours(config):
            return original(config, *args, **kwargs)
        module, _, function = hook.handler.partition(":")
        return getattr(importlib.import_module(module), function)(config, *args, **kwargs)

    setattr(dispatch, _MARK, original)
    return dispatch


def _replace_copies(original: Callable, replacement: Callable) -> None:
    """Replace `original` in its own module and in every module that has imported it."""
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict):
            continue
        for name in [name for name, value in namespace.items() if value is original]:
            namespace[name] = replacement
