"""The Lightning module: SAT's conditional diffusion training with one noise level per track.

Attribute names are SAT's (`diffusion`, `diffusion_ema`), so its unwrap script finds them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from einops import rearrange
from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper
from torch import Tensor
from torch.distributed.fsdp.wrap import wrap

from mge_plugin.config import ConfigError
from mge_plugin.data.order import ItemLoader
from mge_plugin.models.autoencoder import encode_posterior, encode_tracks, is_vae
from mge_plugin.models.dit import needs_checkpointing
from mge_plugin.models.mge import MGEModel
from mge_plugin.models.noise import per_track
from mge_plugin.sat import batches_in_epoch, count_finished_batch, lora_options, train_loader
from mge_plugin.tracks import NUM_TRACKS, pack, unpack
from mge_plugin.training.conditioning import drawn_as_kept, training_embeddings
from mge_plugin.training.config import TrainingConfig, training_config
from mge_plugin.training.objective import (
    LossSums,
    absent_sources,
    known_tracks,
    loss_weights,
    track_losses,
    unpadded_frames,
    weighted_mean,
)
from mge_plugin.training.randomness import ItemRandomness, as_global, item_numbers, to_device
from mge_plugin.training.timesteps import draw_timesteps, fixed_timesteps, noising_levels

_PROGRESS = "mge_progress"  # this module's entry in a Lightning checkpoint
_VALIDATION_SEED = 0x5EED  # validation draws the same noise every time

Batch = tuple[Tensor, Sequence[Mapping[str, Any]]]


class MGETrainingWrapper(DiffusionCondTrainingWrapper):
    """One training step: encode, draw levels, add noise, predict, loss over noised tracks.

    All randomness of an item comes from the seed and the item's number in the run, so a resumed run
    continues as the interrupted one would have, and the number of ranks does not matter.
    """

    def __init__(self, model: MGEModel, config: TrainingConfig) -> None:
        super().__init__(
            model,
            lr=config.learning_rate,
            use_ema=config.use_ema,
            optimizer_configs=config.optimizer_configs,
            pre_encoded=config.pre_encoded,
            cfg_dropout_prob=config.cfg_dropout_prob,
            **lora_options(config.lora_config, config.lora_ckpt_path),
        )
        if self.diffusion_ema is not None:
            self.diffusion_ema.beta = config.ema_beta
        self.config = config
        self.items_seen = 0  # by all ranks together
        self.items_validated = 0
        self.validation = LossSums(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reals, metadata = batch
        draws = self._randomness(self.config.seed, self.items_seen, len(metadata))
        batch_size = len(metadata) * self.trainer.world_size
        self.items_seen += batch_size
        t = draw_timesteps(self.config.timesteps, draws, batch_size, absent_sources(metadata))
        latents = self.encode(reals, draws)
        if batch_idx == 0:
            self._choose_checkpointing(latents)
        losses, weights = self.diffusion_losses(latents, batch, t, draws, self.cfg_dropout_prob)
        loss = weighted_mean(losses, weights)
        log = LossSums(self.device).add(losses, t, known_tracks(metadata), weights).means()
        log = {f"train/{name}": value for name, value in log.items()}
        log["train/std_data"] = latents.std()
        log["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict(log, prog_bar=False, on_step=True, batch_size=len(metadata))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(metadata))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.items_validated = 0
        self.validation = LossSums(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the trained weights (as SAT does, not their average) at fixed levels and noise.

        The items take the patterns in turn, and no embedding is dropped.
        """
        reals, metadata = batch
        draws = self._randomness(_VALIDATION_SEED, self.items_validated, len(metadata))
        self.items_validated += len(metadata) * self.trainer.world_size
        t = fixed_timesteps(self.config.timesteps, draws.numbers, absent_sources(metadata))
        with torch.no_grad():
            latents = self.encode(reals, draws)
            losses, weights = self.diffusion_losses(latents, batch, t, draws, dropout=0.0)
        self.validation.add(losses, t, known_tracks(metadata), weights)

    def on_validation_epoch_end(self) -> None:
        """Log the means over every rank's items, the same on each rank."""
        total = self.validation.over_ranks()
        log = {"val/loss": total.loss()}
        log |= {f"val/{name}": value for name, value in total.means().items()}
        self.log_dict(log, sync_dist=True)

    def diffusion_losses(
        self, latents: Tensor, batch: Batch, t: Tensor, draws: ItemRandomness, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """Errors (b, k) of predictions for latents (b, k, c, n) at levels `t`, and their weights.

        The batch's reals are audio (b, k*channels, samples) or latents (b, k*c, n). `t` (b, k) is
        on the CPU; all that is drawn there goes to the device in one copy.
        """
        reals, metadata = batch
        embeddings = self._embed(reals, metadata, draws)
        levels, noised_at, kept, weights, noise = to_device(
            self.device,
            t,
            noising_levels(t, self.config.timesteps, draws),
            drawn_as_kept(dropout, draws),
            loss_weights(t, known_tracks(metadata), self.config.loss_weights),
            draws.normal("noise", latents.shape[1:]),
        )
        objective = self.diffusion.model.objective
        x = objective.add_noise(latents, noise, per_track(noised_at))
        target = objective.target(latents, noise, per_track(noised_at))
        prediction = self.diffusion.model(
            pack(x), levels, global_cond=embeddings * kept[:, :, None].to(embeddings)
        )
        frames = unpadded_frames(metadata, x.shape[-1]) if self.config.mask_padding else None
        return track_losses(unpack(prediction).float(), target, frames), weights

    def encode(self, reals: Tensor, draws: ItemRandomness | None = None) -> Tensor:
        """Reals to latents (b, k, c, n): drawn from a VAE's posterior, its mean without `draws`."""
        pretransform = self.diffusion.pretransform
        if pretransform is None or self.pre_encoded:
            return unpack(_unwrapped(reals)) / getattr(pretransform, "scale", 1.0)
        audio = rearrange(_unwrapped(reals), "b (k c) s -> b k c s", k=NUM_TRACKS)
        with torch.no_grad():
            if draws is not None and not is_vae(pretransform):
                return self._encode_by_item(audio, draws)
            mean, deviation = encode_posterior(pretransform.eval(), audio)
        if draws is None or deviation is None:
            return mean
        (noise,) = to_device(mean.device, draws.normal("posterior", mean.shape[1:]))
        return mean + deviation * noise

    def _encode_by_item(self, audio: Tensor, draws: ItemRandomness) -> Tensor:
        """Latents of an autoencoder whose bottleneck may draw from the global generators."""
        pretransform, latents = self.diffusion.pretransform.eval(), []
        for item, generator in zip(audio.split(1), draws.generators("posterior"), strict=True):
            with as_global(generator, self.device):
                latents.append(encode_tracks(pretransform, item))
        return torch.cat(latents)

    def _audio(self, reals: Tensor) -> Tensor | None:
        """(b, k, channels, samples), None for a batch of latents."""
        if self.pre_encoded or self.diffusion.pretransform is None:
            return None
        return rearrange(_unwrapped(reals), "b (k c) s -> b k c s", k=NUM_TRACKS)

    def _embed(
        self, reals: Tensor, metadata: Sequence[Mapping[str, Any]], draws: ItemRandomness
    ) -> Tensor:
        return training_embeddings(
            self.diffusion,
            self._audio(reals),
            metadata,
            self.config.conditioning,
            draws.generators("conditioning"),
            self.device,
        )

    def _randomness(self, seed: int, seen: int, batch_size: int) -> ItemRandomness:
        ranks = self.trainer.world_size
        return ItemRandomness(seed, item_numbers(seen, batch_size, self.global_rank, ranks))

    def _choose_checkpointing(self, latents: Tensor) -> None:
        """Decide `use_checkpointing: "auto"` by the first batch of an epoch."""
        network = self.diffusion.model.model
        if network.config.use_checkpointing == "auto":
            network.checkpointing = needs_checkpointing(network, latents)

    def wrap_fsdp(self) -> None:
        """Shard the blocks' attention, feed-forward and projections; called by SAT's FSDP strategy.

        SAT shards blocks as a whole, but the projections run before them, once for all blocks.
        """
        for block in self.diffusion.model.model.transformer.layers:
            for name in ("self_attn", "ff", "to_modulations"):
                setattr(block, name, wrap(getattr(block, name)))

    def configure_callbacks(self) -> list[pl.Callback]:
        """Which checkpoints are kept, beside the trainer's own ModelCheckpoint."""
        kept = self.config.keep_last, self.config.keep_best
        return [_KeptCheckpoints(*kept)] if any(kept) else []

    def on_train_start(self) -> None:
        """Refuse to train on an autoencoder whose weights are still the random initial ones."""
        if self.pre_encoded or self.config.allow_random_autoencoder:
            return
        if self.diffusion.has_random_autoencoder():
            raise ConfigError(
                "the autoencoder has random weights: add --pretransform-ckpt-path with an exported "
                "autoencoder (or --pretrained-ckpt-path with a whole model) to the command of "
                "train.py; for a smoke test set training.allow_random_autoencoder to true"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if hasattr(super(), "on_save_checkpoint"):
            super().on_save_checkpoint(checkpoint)
        count_finished_batch(checkpoint)
        checkpoint[_PROGRESS] = {"items_seen": self.items_seen}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue with the item after the last one that was trained on."""
        progress = checkpoint.get(_PROGRESS)
        if progress is None:
            return  # a checkpoint of SAT's own wrapper, or unwrapping
        self.items_seen = progress["items_seen"]
        loader = None if self._trainer is None else train_loader(self._trainer)
        if isinstance(loader, ItemLoader):
            loader.seek(self.items_seen, batches_in_epoch(checkpoint))


class _KeptCheckpoints(pl.Callback):
    """Delete old checkpoints of the trainer's own ModelCheckpoint, and keep the best ones too."""

    def __init__(self, last: int | None, best: int) -> None:
        self.last, self.best = last, best
        self.paths: list[str] = []
        self.losses: dict[str, float] = {}  # by path, of the best checkpoints

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        newest = getattr(trainer.checkpoint_callback, "best_model_path", None)
        if self.last and newest and newest not in self.paths:
            self.paths.append(newest)
            while len(self.paths) > self.last:
                trainer.strategy.remove_checkpoint(self.paths.pop(0))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if not self.best or folder is None or trainer.sanity_checking:
            return
        path = f"{folder}/best-step={trainer.global_step}.ckpt"
        losses = self.losses | {path: float(trainer.callback_metrics["val/loss"])}
        best = dict(sorted(losses.items(), key=lambda item: item[1])[: self.best])
        self.losses = best
        if path in best:
            trainer.save_checkpoint(path)
        for other in losses.keys() - best.keys() - {path}:
            trainer.strategy.remove_checkpoint(other)

    def state_dict(self) -> dict[str, Any]:
        return {"paths": self.paths, "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.paths, self.losses = [*state_dict["paths"]], {**state_dict["losses"]}


def _unwrapped(reals: Tensor) -> Tensor:
    """Without the outer axis that WebDataset adds to a batch."""
    return reals[0] if reals.ndim == 4 and reals.shape[0] == 1 else reals


def create_mge_training_wrapper(
    model_config: Mapping[str, Any], model: MGEModel
) -> MGETrainingWrapper:
    """Build the wrapper from the `training` section of a model config."""
    return MGETrainingWrapper(model, training_config(model_config))
