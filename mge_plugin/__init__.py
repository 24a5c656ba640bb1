"""A three-track music model (MGE-LDM) for stable-audio-tools.

    from mge_plugin import load

    load().extract("song.wav", ["bass", "drums"]).save("out/")

Importing this package is quick: what it exports is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mge_plugin.inference.pipeline import Pipeline as Pipeline
    from mge_plugin.inference.pipeline import load as load
    from mge_plugin.inference.request import Init as Init
    from mge_plugin.inference.request import Keep as Keep
    from mge_plugin.inference.request import Request as Request
    from mge_plugin.inference.request import Result as Result
    from mge_plugin.inference.request import Sampling as Sampling
    from mge_plugin.inference.request import remix as remix
    from mge_plugin.registry import install as install

__version__ = "0.1.0"

_HOMES = {
    "install": "mge_plugin.registry",
    "load": "mge_plugin.inference.pipeline",
    "Pipeline": "mge_plugin.inference.pipeline",
    "Request": "mge_plugin.inference.request",
    "Sampling": "mge_plugin.inference.request",
    "Result": "mge_plugin.inference.request",
    "Keep": "mge_plugin.inference.request",
    "Init": "mge_plugin.inference.request",
    "remix": "mge_plugin.inference.request",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
