"""The Lightning module: SAT's conditional diffusion training with a level for every track.

Attribute names are SAT's (`diffusion`, `diffusion_ema`), so its unwrap script knows them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper
from torch import Tensor

from mge_plugin.data.sampler import ItemSampler
from mge_plugin.models.conditioning import drop_tracks
from mge_plugin.models.latents import encode_tracks
from mge_plugin.models.mge import MGEModel
from mge_plugin.noise import add_noise, velocity
from mge_plugin.tracks import NUM_TRACKS, Track, pack, unpack
from mge_plugin.training.config import TrainingConfig, training_config
from mge_plugin.training.objective import masked_v_loss, track_losses
from mge_plugin.training.timesteps import draw_timesteps, pattern_name
from mge_plugin.upstream import count_finished_batch, train_loader

PROGRESS = "mge_progress"  # this module's entry in a Lightning checkpoint
VALIDATION_SEED = 0x5EED  # validation draws the same levels and noise every time


class MGETrainingWrapper(DiffusionCondTrainingWrapper):
    """One training step: encode, draw levels, add noise, predict `v`, loss over noised tracks.

    Everything random in a step comes from (seed, number of the batch, rank), so a resumed run goes
    on as the interrupted one would have.
    """

    def __init__(self, model: MGEModel, config: TrainingConfig) -> None:
        super().__init__(
            model,
            lr=config.learning_rate,
            use_ema=config.use_ema,
            optimizer_configs=config.optimizer_configs,
            pre_encoded=config.pre_encoded,
            cfg_dropout_prob=config.cfg_dropout_prob,
        )
        self.config = config
        self.batches_seen = 0
        self.batches_in_epoch = 0

    def training_step(self, batch: tuple[Tensor, list[dict]], batch_idx: int) -> Tensor:
        seed = (self.config.seed * 1_000_003 + self.batches_seen) * 4096 + self.global_rank
        self.batches_seen += 1
        self.batches_in_epoch += 1
        loss, log = self.diffusion_loss(batch, seed, self.cfg_dropout_prob)
        log = {f"train/{name}": value for name, value in log.items()}
        log["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict(log, prog_bar=False, on_step=True, batch_size=len(batch[1]))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: tuple[Tensor, list[dict]], batch_idx: int) -> None:
        with torch.no_grad():
            loss, log = self.diffusion_loss(batch, VALIDATION_SEED + batch_idx, 0.0)
        log = {f"val/{name}": value for name, value in log.items()}
        self.log_dict({"val/loss": loss} | log, sync_dist=True, batch_size=len(batch[1]))

    def on_validation_epoch_end(self) -> None:
        """SAT averages its own validation losses here; Lightning has averaged ours."""

    def diffusion_loss(
        self, batch: tuple[Tensor, list[dict]], seed: int, dropout: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, reals (b, k*channels, samples) or latents, and its parts."""
        reals, metadata = batch
        generator = torch.Generator(self.device).manual_seed(seed)
        latents = self.encode(reals, seed)
        conditioning = self.diffusion.conditioner(metadata, self.device)
        embeddings = self.diffusion.get_conditioning_inputs(conditioning)["global_cond"]
        embeddings = drop_tracks(embeddings, dropout, generator)
        t = draw_timesteps(len(latents), self.config.timesteps, generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        x, target = add_noise(latents, noise, t), velocity(latents, noise, t)
        v = unpack(self.diffusion.model(pack(x), t, global_cond=embeddings)).float()
        loss = masked_v_loss(v, target, t)
        return loss, self._losses_by_pattern(v.detach(), target, t) | {"std_data": latents.std()}

    def encode(self, reals: Tensor, seed: int | None = None) -> Tensor:
        """Reals to latents (b, k, c, n): drawn from the posterior with a seed, its mean without."""
        if reals.ndim == 4 and reals.shape[0] == 1:
            reals = reals[0]  # a batch that WebDataset wrapped once more
        pretransform = self.diffusion.pretransform
        if pretransform is None or self.pre_encoded:
            scale = getattr(pretransform, "scale", 1.0)
            return unpack(reals) / scale
        audio = rearrange(reals, "b (k c) s -> b k c s", k=NUM_TRACKS)
        if seed is None:
            return encode_tracks(pretransform.eval(), audio)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)  # SAT's VAE draws from the global generator
            return encode_tracks(pretransform.eval(), audio, sample=True)

    def _losses_by_pattern(self, v: Tensor, target: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Means over the items of a pattern, e.g. "mixture_given/source"; absent ones left out."""
        losses, groups = track_losses(v, target, t), {}
        for levels, loss in zip(t.cpu(), losses, strict=True):  # one wait for the GPU, not many
            for track in Track:
                if levels[track] > 0:
                    name = f"{pattern_name(levels)}_given/{track.label}"
                    groups.setdefault(name, []).append(loss[track])
        return {name: torch.stack(values).mean() for name, values in groups.items()}

    def on_train_epoch_start(self) -> None:
        self.batches_in_epoch = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if hasattr(super(), "on_save_checkpoint"):
            super().on_save_checkpoint(checkpoint)
        count_finished_batch(checkpoint)
        checkpoint[PROGRESS] = {
            "batches_seen": self.batches_seen,
            "batches_in_epoch": self.batches_in_epoch,
            "epoch": self.current_epoch,
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        progress = checkpoint.get(PROGRESS)
        if progress is None:
            return  # a checkpoint of SAT's own wrapper, or unwrapping
        self.batches_seen = progress["batches_seen"]
        self.batches_in_epoch = progress["batches_in_epoch"]
        if self._trainer is not None:
            self._continue_epoch(progress)

    def _continue_epoch(self, progress: Mapping[str, int]) -> None:
        """Go on with the item after the last one that was trained on."""
        loader = train_loader(self._trainer)
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, ItemSampler):
            sampler.set_epoch(progress["epoch"])
            sampler.skip(progress["batches_in_epoch"] * loader.batch_size)


def create_mge_training_wrapper(
    model_config: Mapping[str, Any], model: MGEModel
) -> MGETrainingWrapper:
    """Build the wrapper from the `training` section of a model config."""
    return MGETrainingWrapper(model, training_config(model_config))
