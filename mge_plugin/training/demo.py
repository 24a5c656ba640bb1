"""Demos while training: every task with the averaged weights, as WAV and picture."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from einops import rearrange
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from mge_plugin.data.audio import write_wav
from mge_plugin.files import write_file
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.inference.tasks import TASKS, Task
from mge_plugin.report.panels import spectrogram_panels_png
from mge_plugin.training.config import DemoConfig, training_config
from mge_plugin.training.demo_items import DemoItems, demo_items, sample_task, undisturbed
from mge_plugin.training.demo_loggers import show_demo
from mge_plugin.upstream import ema_model

logger = logging.getLogger(__name__)

GAP = 0.25  # seconds of silence between the items of a demo file


class MGEDemoCallback(pl.Callback):
    """Every `demo_every` steps, one file a task and guidance scale: all items one after another.

    Files go to `demos/` in the run's folder, and to the loggers if there are any. Demos are made by
    rank 0 alone, without a word to the others, and in the trainer's precision; training goes on as
    if they had not been. What fails at step 1 is raised, before time is lost; what fails later is
    logged, and training goes on.
    """

    def __init__(self, config: DemoConfig, demo_dl: Iterable, sample_rate: int) -> None:
        self.config = config
        self.demo_dl = demo_dl
        self.sample_rate = sample_rate
        self.items: DemoItems | None = None
        self.last_step = -1
        self.failures: set[str] = set()

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if obstacle := _obstacle(module):
            logger.warning("no demos: %s", obstacle)

    @rank_zero_only
    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if (step - 1) % self.config.demo_every or step == self.last_step:
            return
        self.last_step = step
        if _obstacle(module):
            return
        try:
            self._make(trainer, module, step)
        except Exception as error:
            if step == 1:
                raise
            self._report(error, step)

    def _make(self, trainer: pl.Trainer, module: Any, step: int) -> None:
        model = module.diffusion
        evaluated = (ema_model(module), model.pretransform, model.conditioner)
        schedule = linear_schedule(self.config.demo_steps)
        with undisturbed(module.device, *evaluated), trainer.precision_plugin.forward_context():
            if self.items is None:
                self.items = demo_items(module, self.demo_dl, self.config.num_demos)
            for name, task in TASKS.items():
                for scale in self.config.demo_cfg_scales:
                    made = sample_task(module, task, self.items, schedule, scale)
                    self._write(trainer, f"{name}_cfg{scale:g}", self._sounds(task, made), step)
        logger.info("demos of step %d are in %s", step, _folder(trainer))

    def _sounds(self, task: Task, made: Tensor) -> dict[str, np.ndarray]:
        """What is drawn, top down; the last is what was made. Nothing given has no one truth."""
        sounds = {}
        if task.given is not None:
            sounds[f"given {task.given.label}"] = self.items.audio[:, task.given]
            sounds[f"true {task.prompted.label}"] = self.items.audio[:, task.prompted]
        sounds[f"made {task.prompted.label}"] = made
        return {name: self._in_a_row(audio) for name, audio in sounds.items()}

    def _in_a_row(self, audio: Tensor) -> np.ndarray:
        """(b, channels, samples) to (channels, samples), a gap after each item."""
        gap = torch.zeros(*audio.shape[:2], int(GAP * self.sample_rate))
        row = rearrange(torch.cat([audio.float(), gap], dim=2), "b c s -> c (b s)")
        return np.ascontiguousarray(row.numpy())

    def _write(
        self, trainer: pl.Trainer, name: str, sounds: Mapping[str, np.ndarray], step: int
    ) -> None:
        path = _folder(trainer) / f"{step:08d}_{name}.wav"
        write_wav(path, list(sounds.values())[-1], self.sample_rate)
        png = path.with_suffix(".png")
        write_file(png, spectrogram_panels_png(sounds, self.sample_rate))
        for shown_by in trainer.loggers:
            show_demo(shown_by, path, png, name, step)

    def _report(self, error: Exception, step: int) -> None:
        """Log a failure, the first of its kind with where it happened."""
        kind = f"{type(error).__name__}: {error}"
        first = kind not in self.failures
        self.failures.add(kind)
        logger.error("demos of step %d failed, training goes on: %s", step, kind, exc_info=first)


def _obstacle(module: Any) -> str | None:
    """Why there can be no demos of this training wrapper, None if there can."""
    if module.diffusion.pretransform is None:
        return "the model has no pretransform to decode latents with"
    if getattr(module, "use_fsdp", False) and module.diffusion_ema is None:
        return "rank 0 holds a shard of the network and no averaged copy (training.use_ema)"
    return None


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "demos"


def create_mge_demo_callback(
    model_config: Mapping[str, Any], demo_dl: Iterable, **_: Any
) -> MGEDemoCallback:
    """Build the demo callback as SAT's `create_demo_callback_from_config` is called."""
    demo = training_config(model_config).demo
    return MGEDemoCallback(demo, demo_dl, model_config["sample_rate"])


def create_mge_metrics_callback(model_config: Mapping[str, Any], **_: Any) -> pl.Callback:
    """SAT 0.0.20 scores text-to-audio while training; tracks are judged by validation and demos."""
    if model_config.get("training", {}).get("metrics"):
        logger.warning("training.metrics: SAT's text-to-audio metrics are not run for mge_dit")
    return pl.Callback()
