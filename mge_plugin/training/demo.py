"""Demos while training: every task on held-out items with the averaged weights, WAV and picture.

They are written to disk, then given to the loggers.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile as sf
import torch
from einops import rearrange
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from stable_audio_tools.training.utils import log_audio, log_image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mge_plugin.data.audio import write_wav
from mge_plugin.files import write_file
from mge_plugin.inference.denoiser import Denoiser
from mge_plugin.inference.sampling import linear_schedule, sample_ddim
from mge_plugin.models.autoencoder import decode_tracks
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.prompts import track_prompts
from mge_plugin.report.pictures import spectrogram_panels_png
from mge_plugin.sat import ema_model
from mge_plugin.tracks import NUM_TRACKS, TASKS, Task
from mge_plugin.training.config import DemoConfig, training_config

logger = logging.getLogger(__name__)

_SEED = 0  # of every demo's noise: two steps of a run differ by what was learned alone


@dataclass(frozen=True)
class _DemoItems:
    """Items of the held-out set; the same all through a run."""

    latents: Tensor  # (b, k, c, n)
    audio: Tensor  # (b, k, channels, samples) on the CPU
    metadata: Sequence[Mapping[str, Any]]


def _first_batch(loader: Iterable, count: int) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
    """The set's first items, read in this process.

    Without a validation set the loader is the one that training iterates at the same time: to ask
    it for a batch would take that from training, and with workers start its epoch again.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        dataset: Any = loader.dataset
        count = min(count, len(dataset))
        loader = DataLoader(dataset, count, collate_fn=loader.collate_fn)
    return next(iter(loader))


def _demo_items(module: Any, loader: Iterable, count: int) -> _DemoItems:
    """Up to `count` items, as the training wrapper `module` encodes them."""
    reals, metadata = _first_batch(loader, count)
    latents = module.encode(reals.to(module.device))[:count]
    if module.pre_encoded:
        audio = decode_tracks(module.diffusion.pretransform, latents)
    else:
        audio = rearrange(reals[:count], "b (k c) s -> b k c s", k=NUM_TRACKS)
    return _DemoItems(latents, audio.cpu(), metadata[:count])


def _sample_task(
    module: Any, task: Task, items: _DemoItems, schedule: Tensor, cfg_scale: float
) -> Tensor:
    """The task's prompted track of each item, (b, channels, samples) on the CPU.

    Prompted by text, as users do, with the averaged weights.
    """
    model, network = module.diffusion, ema_model(module)
    given = None if task.given is None else Given.track(task.given, items.latents[:, task.given])
    conditioning = model.conditioner(_prompts(model, task, items), module.device)
    embeddings = model.embeddings(conditioning)
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(items.latents.shape, generator=generator, dtype=torch.float32)
    modulations = network.modulate(embeddings)
    denoiser = Denoiser(network, modulations, given=given, guidance=Guidance(cfg_scale))
    noise = noise.to(module.device)
    latents = sample_ddim(denoiser, noise, schedule, objective=network.objective)
    return decode_tracks(model.pretransform, latents[:, [task.prompted]])[:, 0].cpu()


def _prompts(model: Any, task: Task, items: _DemoItems) -> list[dict[str, Any]]:
    """The text of the prompted track alone, by the conditioners' ids."""
    prompts = []
    for item in items.metadata:
        found = {key: track_prompts(item.get(key), task.prompted) for key in model.global_cond_ids}
        texts = {key: tracks.get(task.prompted) for key, tracks in found.items()}
        prompts.append(
            {key: {task.prompted.label: text and text.text} for key, text in texts.items()}
        )
    return prompts


@contextmanager
def _undisturbed(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Evaluate `modules`, then put their modes and the random generators back as they were."""
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.no_grad())
        for module in modules:
            for part in module.modules():
                stack.callback(setattr, part, "training", part.training)
            module.eval()
        yield


def _show_demo(logger: Logger, wav: Path, png: Path, name: str, step: int) -> None:
    """Give a demo's sound and picture to a logger: TensorBoard, wandb or comet.

    Loggers that hold only numbers get nothing.
    """
    if isinstance(logger, TensorBoardLogger):
        _to_tensorboard(logger, wav, png, name, step)
    else:  # SAT's functions know wandb and comet, and leave others alone
        log_audio(logger, name, str(wav), sf.info(wav).samplerate)
        log_image(logger, f"{name}_spectrogram", str(png))


def _to_tensorboard(logger: TensorBoardLogger, wav: Path, png: Path, name: str, step: int) -> None:
    audio, sample_rate = sf.read(wav, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)  # TensorBoard plays one channel
    logger.experiment.add_audio(name, mono, step, sample_rate)
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    logger.experiment.add_image(f"{name}_spectrogram", pixels, step, dataformats="HWC")


_GAP = 0.25  # seconds of silence between the items of a demo file
_LONGEST = 100  # characters of the prompts in a picture's title


class _MGEDemoCallback(pl.Callback):
    """Every `demo_every` steps, one file a task and guidance scale: all items one after another.

    Files go to `demos/` in the run's folder, and to the loggers if there are any. Demos are made by
    rank 0 alone, without communication, and in the trainer's precision; training continues as
    if they had not been. What fails at step 1 is raised, before time is lost; what fails later is
    logged, and training continues.
    """

    def __init__(self, config: DemoConfig, demo_dl: Iterable, sample_rate: int) -> None:
        self.config = config
        self.demo_dl = demo_dl
        self.sample_rate = sample_rate
        self.items: _DemoItems | None = None
        self.last_step = -1
        self.failures: set[str] = set()
        self.folder = Path("demos")

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.folder = _folder(Path(trainer.default_root_dir), resumed=trainer.global_step > 0)
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
        with _undisturbed(module.device, *evaluated), trainer.precision_plugin.forward_context():
            if self.items is None:
                self.items = self._items(module)
            for name, task in TASKS.items():
                if task.new_prompt:  # extract and add, which have demos of their own
                    continue
                for scale in self.config.demo_cfg_scales:
                    made = _sample_task(module, task, self.items, schedule, scale)
                    sounds = self._sounds(task, made, _texts(model, task, self.items))
                    self._write(trainer, f"{name}_cfg{scale:g}", sounds, step)
        logger.info("demos of step %d are in %s", step, self.folder)

    def _items(self, module: Any) -> _DemoItems:
        """Items of the held-out set, with the prompts of `demo_cond` if there are any."""
        items = _demo_items(module, self.demo_dl, self.config.num_demos)
        prompts = self.config.demo_cond
        if not prompts:
            return items
        return replace(items, metadata=[*islice(cycle(prompts), len(items.metadata))])

    def _sounds(self, task: Task, made: Tensor, texts: str) -> dict[str, np.ndarray]:
        """The panels of a picture, top down; the last is the result, titled with its prompts."""
        sounds = {}
        if task.given is not None and self.items is not None:
            sounds[f"given {task.given.label}"] = self.items.audio[:, task.given]
            sounds[f"true {task.prompted.label}"] = self.items.audio[:, task.prompted]
        sounds[f"made {task.prompted.label}: {texts}"] = made
        return {name: self._in_a_row(audio) for name, audio in sounds.items()}

    def _in_a_row(self, audio: Tensor) -> np.ndarray:
        """(b, channels, samples) to (channels, samples), a gap after each item."""
        gap = torch.zeros(*audio.shape[:2], int(_GAP * self.sample_rate))
        row = rearrange(torch.cat([audio.float(), gap], dim=2), "b c s -> c (b s)")
        return np.ascontiguousarray(row.numpy())

    def _write(
        self, trainer: pl.Trainer, name: str, sounds: Mapping[str, np.ndarray], step: int
    ) -> None:
        path = self.folder / f"{step:08d}_{name}.wav"
        write_wav(path, list(sounds.values())[-1], self.sample_rate)
        png = path.with_suffix(".png")
        write_file(png, spectrogram_panels_png(sounds, self.sample_rate))
        for shown_by in trainer.loggers:
            _show_demo(shown_by, path, png, name, step)

    def _report(self, error: Exception, step: int) -> None:
        """Log a failure, the first of its kind with where it happened."""
        kind = f"{type(error).__name__}: {error}"
        first = kind not in self.failures
        self.failures.add(kind)
        logger.error("demos of step %d failed, training continues: %s", step, kind, exc_info=first)


def _obstacle(module: Any) -> str | None:
    """Why there can be no demos of this training wrapper, None if there can."""
    if module.diffusion.pretransform is None:
        return "the model has no pretransform to decode latents with"
    if getattr(module, "use_fsdp", False) and module.diffusion_ema is None:
        return "rank 0 has a shard of the network and no averaged copy (training.use_ema)"
    return None


def _texts(model: Any, task: Task, items: _DemoItems) -> str:
    """The prompts of the items, for the title of a picture."""
    prompts = [text for item in _prompts(model, task, items) for text in item.values()]
    return " | ".join(prompt[task.prompted.label] or "no prompt" for prompt in prompts)[:_LONGEST]


def _folder(run: Path, resumed: bool) -> Path:
    """demos, demos_2, ...: the first that a new run finds unused, the last one of a resumed run."""
    folders = [run / "demos", *(run / f"demos_{number}" for number in range(2, 1000))]
    used = [folder for folder in folders if folder.exists()]
    return used[-1] if resumed and used else folders[len(used)]


def create_mge_demo_callback(
    model_config: Mapping[str, Any], demo_dl: Iterable, **_: Any
) -> _MGEDemoCallback:
    """Build the demo callback as SAT's `create_demo_callback_from_config` is called."""
    demo = training_config(model_config).demo
    return _MGEDemoCallback(demo, demo_dl, model_config["sample_rate"])


def create_mge_metrics_callback(model_config: Mapping[str, Any], **_: Any) -> pl.Callback:
    """SAT 0.0.20 scores text-to-audio while training; tracks are judged by validation and demos."""
    if model_config.get("training", {}).get("metrics"):
        logger.warning("training.metrics: SAT's text-to-audio metrics are not run for mge_dit")
    return pl.Callback()
