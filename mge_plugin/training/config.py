"""The `training` section of a model config whose network is `mge_dit`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mge_plugin.config import parse_section
from mge_plugin.training.timesteps import TimestepConfig


@dataclass(frozen=True)
class DemoConfig:
    """`training.demo`."""

    demo_every: int = 2000  # optimizer steps
    demo_steps: int = 50  # sampling steps
    num_demos: int = 4  # items of a batch
    demo_cfg_scales: tuple[float, ...] = (2.0,)


@dataclass(frozen=True)
class TrainingConfig:
    """`training`; names and defaults are SAT's where SAT has the option."""

    learning_rate: float | None = None
    optimizer_configs: dict | None = None  # SAT's optimizer and scheduler sections
    use_ema: bool = True
    pre_encoded: bool = False  # the batches are latents
    cfg_dropout_prob: float = 0.1  # share of each track's embeddings zeroed, track by track
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    seed: int = 0  # of timesteps, noise and dropout
    demo: DemoConfig = field(default_factory=DemoConfig)
    metrics: dict | None = None  # SAT 0.0.20's metrics callback


def training_config(model_config: Mapping[str, Any]) -> TrainingConfig:
    """Read `training` from a model config."""
    return parse_section(TrainingConfig, model_config.get("training"), "training")
