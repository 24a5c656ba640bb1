"""The `training` section of a model config whose network is `mge_dit`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mge_plugin.config import parse_section
from mge_plugin.training.conditioning import ConditioningModes
from mge_plugin.training.objective import LossWeights
from mge_plugin.training.timesteps import TimestepConfig


@dataclass(frozen=True)
class DemoConfig:
    """`training.demo`."""

    demo_every: int = 2000  # optimizer steps
    demo_steps: int = 50  # sampling steps; paper: 250
    num_demos: int = 4  # items of a batch
    demo_cfg_scales: tuple[float, ...] = (2.0,)  # guidance scales, a set of files each; paper: 2


@dataclass(frozen=True)
class TrainingConfig:
    """`training`; names and defaults are SAT's where SAT has the option."""

    learning_rate: float | None = None  # of Adam, where optimizer_configs is not given
    optimizer_configs: dict | None = None  # SAT's optimizer and scheduler sections
    use_ema: bool = True  # keep averaged weights: demos, exports and unwrapping use them
    pre_encoded: bool = False  # the batches are latents
    cfg_dropout_prob: float = 0.1  # share of each track's embeddings zeroed by itself; paper: 0.1
    conditioning: ConditioningModes = field(default_factory=ConditioningModes)  # asked by what
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)  # levels and what is given
    loss_weights: LossWeights = field(default_factory=LossWeights)  # of the tracks
    mask_padding: bool = False  # leave frames after a song's end out of the loss
    seed: int = 0  # of everything random in a step
    lora_config: dict | None = None  # SAT 0.0.20's: train low-rank additions alone
    lora_ckpt_path: str | None = None  # go on with these additions
    demo: DemoConfig = field(default_factory=DemoConfig)  # what is made while training
    metrics: dict | None = None  # SAT 0.0.20's metrics callback


def training_config(model_config: Mapping[str, Any]) -> TrainingConfig:
    """Read `training` from a model config."""
    return parse_section(TrainingConfig, model_config.get("training"), "training")
