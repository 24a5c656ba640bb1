"""Demos while training: extraction and generation with the averaged weights, as WAV and picture."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from einops import rearrange
from pytorch_lightning.utilities import rank_zero_only
from stable_audio_tools.training.utils import log_audio
from torch import Tensor
from torch.utils.data import DataLoader

from mge_plugin.data.audio import write_wav
from mge_plugin.files import write_file
from mge_plugin.inference.denoise import denoise_tracks
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.inference.tasks import TASKS, Task
from mge_plugin.models.given import Given
from mge_plugin.models.latents import decode_tracks
from mge_plugin.report.spectrogram import spectrogram_png
from mge_plugin.training.config import DemoConfig, training_config
from mge_plugin.upstream import ema_model

logger = logging.getLogger(__name__)

DEMO_TASKS = ("generate", "extract", "add")
GAP = 0.25  # seconds of silence between the items of a demo file


class MGEDemoCallback(pl.Callback):
    """Every `demo_every` steps, one file a task and guidance scale: all items one after another.

    Files go to `demos/` in the run's folder, and to the logger if there is one.
    """

    def __init__(self, config: DemoConfig, demo_dl: DataLoader, sample_rate: int) -> None:
        self.config = config
        self.demo_dl = demo_dl
        self.sample_rate = sample_rate
        self.batches: Iterator | None = None
        self.last_step = -1

    @rank_zero_only
    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if (step - 1) % self.config.demo_every or step == self.last_step:
            return
        self.last_step = step
        folder = Path(trainer.default_root_dir) / "demos"
        reals, metadata = self._next_batch()
        reals, metadata = reals[: self.config.num_demos], metadata[: self.config.num_demos]
        for name in DEMO_TASKS:
            for cfg_scale in self.config.demo_cfg_scales:
                audio = self._sample(module, TASKS[name], reals, metadata, cfg_scale)
                path = folder / f"{step:08d}_{name}_cfg{cfg_scale:g}.wav"
                self._write(path, audio, trainer)
        logger.info("demos of step %d are in %s", step, folder)

    def _next_batch(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """The next held-out batch; the loader starts again when it is through."""
        if self.batches is None:
            self.batches = iter(self.demo_dl)
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.demo_dl)
            batch = next(self.batches)
        return batch

    def _sample(
        self,
        module: Any,
        task: Task,
        reals: Tensor,
        metadata: list[dict[str, Any]],
        cfg_scale: float,
    ) -> Tensor:
        """What the task makes of each item, (b, channel, samples): the prompted track."""
        network, pretransform = ema_model(module), module.diffusion.pretransform
        latents = module.encode(reals.to(module.device))
        given = None if task.given is None else Given.track(task.given, latents[:, task.given])
        label = task.prompted.label
        prompts = [{"prompt": {label: item["prompt"].get(label)}} for item in metadata]
        conditioning = module.diffusion.conditioner(prompts, module.device)
        embeddings = module.diffusion.get_conditioning_inputs(conditioning)["global_cond"]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        schedule = linear_schedule(self.config.demo_steps)
        result = denoise_tracks(
            network, noise.to(module.device), embeddings, given, schedule, cfg_scale
        )
        return decode_tracks(pretransform, result[:, [task.prompted]])[:, 0].cpu()

    def _write(self, path: Path, audio: Tensor, trainer: pl.Trainer) -> None:
        gap = torch.zeros(*audio.shape[:2], int(GAP * self.sample_rate))
        line = rearrange(torch.cat([audio, gap], dim=2), "b c s -> c (b s)")
        samples = np.ascontiguousarray(line.numpy())
        write_wav(path, samples, self.sample_rate)
        write_file(path.with_suffix(".png"), spectrogram_png(samples, self.sample_rate))
        log_audio(trainer.logger, path.stem.partition("_")[2], str(path), self.sample_rate)


def create_mge_demo_callback(
    model_config: Mapping[str, Any], demo_dl: DataLoader, **_: Any
) -> MGEDemoCallback:
    """Build the demo callback as SAT's `create_demo_callback_from_config` is called."""
    demo = training_config(model_config).demo
    return MGEDemoCallback(demo, demo_dl, model_config["sample_rate"])


def create_mge_metrics_callback(model_config: Mapping[str, Any], **_: Any) -> pl.Callback:
    """SAT 0.0.20 scores text-to-audio while training; tracks are judged by validation and demos."""
    if model_config.get("training", {}).get("metrics"):
        logger.warning("training.metrics: SAT's text-to-audio metrics are not run for mge_dit")
    return pl.Callback()
