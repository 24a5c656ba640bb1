"""A three-track music model (MGE-LDM) for stable-audio-tools."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from mge_plugin.inference.pipeline import Pipeline

__version__ = "0.1.0"


def install() -> None:
    """Register this plugin's components with stable-audio-tools; calling it twice is harmless."""
    from mge_plugin.registry import install as install_hooks

    install_hooks()


def load(model_config: "Path | str", ckpt: "Path | str", **options: Any) -> "Pipeline":
    """Open a model for the tasks: see `mge_plugin.inference.pipeline.load`."""
    from mge_plugin.inference.pipeline import load as load_pipeline

    return load_pipeline(model_config, ckpt, **options)
