"""The `training` section of a model config whose network is `mge_dit`."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mge_plugin.config import ConfigError, at, choose, found, parse_section, problems_of
from mge_plugin.training.conditioning import ConditioningModes
from mge_plugin.training.objective import LossWeights
from mge_plugin.training.timesteps import TimestepConfig

_TRACK_LOSSES = "the loss of each track and pattern is always logged"
_LEVELS = "use timesteps.levels and timesteps.density"


@dataclass(frozen=True)
class DemoConfig:
    """`training.demo`."""

    demo_every: int = 2000  # optimizer steps
    demo_steps: int = 50  # sampling steps; paper: 250
    num_demos: int = 4  # items of a batch
    demo_cfg_scales: tuple[float, ...] = (2.0,)  # guidance scales, a set of files each; paper: 2
    demo_cond: tuple[dict, ...] = ()  # prompts of the items in turn: {"prompt": text, or by track}

    REPLACED: ClassVar[dict[str, str]] = {
        "demo_cond_from_batch": "demos always use prompts of the batch",
        "display_audio_cond": "demos always show the given track",
    }

    def __post_init__(self) -> None:
        problems = [
            f"{key}: expected 1 or more, found {getattr(self, key)}"
            for key in ("demo_every", "demo_steps", "num_demos")
            if getattr(self, key) < 1
        ]
        if problems:
            raise ConfigError(*problems)


@dataclass(frozen=True)
class TrainingConfig:
    """`training`; names and defaults are SAT's where SAT has the option."""

    learning_rate: float | None = None  # of Adam, where optimizer_configs is not given
    optimizer_configs: dict | None = None  # SAT's optimizer and scheduler sections
    use_ema: bool = True  # keep averaged weights: demos, exports and unwrapping use them
    ema_beta: float = 0.9999  # highest decay of the average; paper's code: 0.9999
    pre_encoded: bool = False  # the batches are latents
    allow_random_autoencoder: bool = False  # train on an autoencoder without weights, for tests
    cfg_dropout_prob: float = 0.1  # share of each track's embeddings set to 0; paper: 0.1
    conditioning: ConditioningModes = field(default_factory=ConditioningModes)  # text or audio
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)  # levels and given tracks
    loss_weights: LossWeights = field(default_factory=LossWeights)  # of the tracks
    mask_padding: bool = False  # leave frames after a song's end out of the loss
    seed: int = 0  # of everything random in a step
    keep_last: int | None = None  # newest checkpoints that are kept; null keeps all, as SAT does
    keep_best: int = 0  # further checkpoints: the lowest validation losses
    lora_config: dict | None = None  # SAT 0.0.20's: train low-rank additions alone
    lora_ckpt_path: str | None = None  # low-rank additions to start from
    demo: DemoConfig = field(default_factory=DemoConfig)  # demos made while training
    metrics: dict | None = None  # SAT 0.0.20's metrics callback

    REPLACED: ClassVar[dict[str, str]] = {
        "timestep_sampler": _LEVELS,
        "timestep_sampler_options": _LEVELS,
        "validation_timesteps": "validation uses levels spread evenly over each pattern",
        "mask_loss_weight": "use mask_padding",
        "mask_padding_dropout": "use mask_padding",
        "mask_padding_attention": "use mask_padding, which masks the loss",
        "silence_extension_scale_seconds": "use mask_padding",
        "use_effective_length_for_schedule": "the schedule does not depend on the length",
        "inpainting_config": "use timesteps.patterns: the given tracks",
        "p_one_shot": "there are no one-shots",
        "loss_configs": "use loss_weights",
        "loss_normalization": "use loss_weights",
        "loss_norm_eps": "use loss_weights",
        "log_loss_info": _TRACK_LOSSES,
        "log_every_n_steps": _TRACK_LOSSES,
        "ot_coupling": "noise belongs to its item",
        "base_precision": "use train.py's --precision",
    }

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        if not 0.0 <= self.cfg_dropout_prob <= 1.0:
            yield f"cfg_dropout_prob: expected 0 to 1, found {self.cfg_dropout_prob}"
        if not 0.0 <= self.ema_beta < 1.0:
            yield f"ema_beta: expected 0 to below 1, found {self.ema_beta}"
        if self.learning_rate is not None and self.learning_rate <= 0:
            yield f"learning_rate: expected more than 0, found {self.learning_rate}"
        if self.keep_last is not None and self.keep_last < 1:
            yield f"keep_last: expected 1 or more, found {self.keep_last}"
        if self.keep_best < 0:
            yield f"keep_best: expected 0 or more, found {self.keep_best}"


def training_config(model_config: Mapping[str, Any]) -> TrainingConfig:
    """Read `training` from a model config."""
    return parse_section(TrainingConfig, model_config.get("training"), "training")


def training_problems(config: Mapping[str, Any], parameters: Iterable[Tensor]) -> list[str]:
    """What keeps a three-track model with these parameters from being trained."""
    problems = problems_of(training_config, config)
    if at(config, "training.learning_rate") is None:
        problems += _optimizer_problems(config, list(parameters))
    return problems


_OPTIMIZER = "training.optimizer_configs.diffusion"
_SAT_OPTIMIZERS = ("FusedAdam", "CAdamW", "CLion", "AdamW8bit", "MuonAdamW")  # not in torch
_INVERSE_LR = ("inv_gamma", "power", "warmup", "final_lr", "last_epoch")  # SAT's own schedule


def _optimizer_problems(config: Mapping[str, Any], parameters: list[Tensor]) -> Iterator[str]:
    """Build the optimizer and its schedule as SAT does; its own kinds are known by name only."""
    if not isinstance(at(config, _OPTIMIZER), Mapping):
        yield "training: learning_rate or optimizer_configs.diffusion is needed"
        return
    optimizer = None
    if at(config, f"{_OPTIMIZER}.optimizer.type") not in _SAT_OPTIMIZERS:
        optimizer, problem = _build(config, "optimizer", torch.optim, parameters)
        if problem:
            yield problem
    if at(config, f"{_OPTIMIZER}.scheduler") is None:
        return
    if at(config, f"{_OPTIMIZER}.scheduler.type") == "InverseLR":
        options = at(config, f"{_OPTIMIZER}.scheduler.config")
        for key in options if isinstance(options, Mapping) else ():
            where = f"{_OPTIMIZER}.scheduler.config"
            yield from problems_of(choose, where, key, dict.fromkeys(_INVERSE_LR))
    elif optimizer is not None:
        _, problem = _build(config, "scheduler", torch.optim.lr_scheduler, optimizer)
        if problem:
            yield problem


def _build(config: Mapping[str, Any], part: str, module: Any, first: Any) -> tuple[Any, str | None]:
    """An optimizer or scheduler of torch's by its section, or what is wrong with the section."""
    where = f"{_OPTIMIZER}.{part}"
    kind, options = at(config, f"{where}.type"), at(config, f"{where}.config")
    known = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    try:
        cls = choose(f"{where}.type", kind, known)
        if not isinstance(options, Mapping):
            raise ConfigError(f"{where}.config: expected an object, found {found(options)}")
        return cls(first, **options), None
    except ConfigError as error:
        return None, str(error)
    except Exception as error:  # torch raises any kind for a value that it does not expect
        return None, f"{where}.config: {error}"
