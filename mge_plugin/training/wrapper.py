"""The Lightning module: SAT's conditional diffusion training with a level for every track.

Attribute names are SAT's (`diffusion`, `diffusion_ema`), so its unwrap script knows them.

The `training` section of a model config whose network is `mge_dit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper
from torch import Tensor
from torch.distributed.fsdp.wrap import wrap

from mge_plugin.config import parse_section
from mge_plugin.data.order import ItemLoader
from mge_plugin.models.autoencoder import encode_posterior, encode_tracks, is_vae
from mge_plugin.models.mge import MGEModel
from mge_plugin.models.noise import per_track
from mge_plugin.sat import batches_in_epoch, count_finished_batch, lora_options, train_loader
from mge_plugin.tracks import NUM_TRACKS, pack, unpack
from mge_plugin.training.conditioning import ConditioningModes, drop_tracks, training_embeddings
from mge_plugin.training.objective import (
    LossSums,
    LossWeights,
    absent_sources,
    known_tracks,
    loss_weights,
    track_losses,
    unpadded_frames,
    weighted_mean,
)
from mge_plugin.training.randomness import ItemRandomness, as_global, item_numbers
from mge_plugin.training.timesteps import (
    TimestepConfig,
    draw_timesteps,
    fixed_timesteps,
    noising_levels,
)


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


_PROGRESS = "mge_progress"  # this module's entry in a Lightning checkpoint
_VALIDATION_SEED = 0x5EED  # validation draws the same noise every time

Batch = tuple[Tensor, Sequence[Mapping[str, Any]]]


class MGETrainingWrapper(DiffusionCondTrainingWrapper):
    """One training step: encode, draw levels, add noise, predict, loss over noised tracks.

    Everything random of an item comes from the seed and the item's number in the run, so a resumed
    run goes on as the interrupted one would have, and the number of ranks does not matter.
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
        self.config = config
        self.items_seen = 0  # by all ranks together
        self.items_validated = 0
        self.validation = LossSums(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reals, metadata = batch
        draws = self._randomness(self.config.seed, self.items_seen, len(metadata))
        batch_size = len(metadata) * self.trainer.world_size
        self.items_seen += batch_size
        absent = absent_sources(metadata)
        t = draw_timesteps(self.config.timesteps, draws, batch_size, absent)
        latents = self.encode(reals, draws)
        losses = self.diffusion_losses(latents, batch, t, draws, self.cfg_dropout_prob)
        known, weights = self._weights(t, metadata)
        loss = weighted_mean(losses, weights)
        log = LossSums(self.device).add(losses, t, known, weights).means()
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
        """Judge the trained weights (as SAT does, not their average) at fixed levels and noise.

        The items take the patterns in turn, and nothing is dropped.
        """
        reals, metadata = batch
        draws = self._randomness(_VALIDATION_SEED, self.items_validated, len(metadata))
        self.items_validated += len(metadata) * self.trainer.world_size
        absent = absent_sources(metadata)
        t = fixed_timesteps(self.config.timesteps, draws.numbers, absent)
        with torch.no_grad():
            losses = self.diffusion_losses(self.encode(reals, draws), batch, t, draws, dropout=0.0)
        self.validation.add(losses, t, *self._weights(t, metadata))

    def on_validation_epoch_end(self) -> None:
        """Log the means over every rank's items, the same on each rank."""
        total = self.validation.over_ranks()
        log = {"val/loss": total.loss()}
        log |= {f"val/{name}": value for name, value in total.means().items()}
        self.log_dict(log, sync_dist=True)

    def diffusion_losses(
        self, latents: Tensor, batch: Batch, t: Tensor, draws: ItemRandomness, dropout: float
    ) -> Tensor:
        """Errors (b, k) of what is predicted of latents (b, k, c, n) at levels `t` (b, k).

        The batch's reals are audio (b, k*channels, samples) or latents (b, k*c, n).
        """
        reals, metadata = batch
        embeddings = self._embed(reals, metadata, draws)
        embeddings = drop_tracks(embeddings, dropout, draws.generators("dropout"))
        noise = draws.normal("noise", latents.shape[1:], self.device)
        objective = self.diffusion.model.objective
        noised_at = per_track(noising_levels(t, self.config.timesteps, draws).to(self.device))
        x = objective.add_noise(latents, noise, noised_at)
        target = objective.target(latents, noise, noised_at)
        told = t.to(self.device)
        prediction = unpack(self.diffusion.model(pack(x), told, global_cond=embeddings)).float()
        frames = unpadded_frames(metadata, x.shape[-1]) if self.config.mask_padding else None
        return track_losses(prediction, target, frames)

    def encode(self, reals: Tensor, draws: ItemRandomness | None = None) -> Tensor:
        """Reals to latents (b, k, c, n): drawn from a VAE's posterior, its mean without `draws`."""
        pretransform = self.diffusion.pretransform
        if pretransform is None or self.pre_encoded:
            return unpack(_unwrapped(reals)) / getattr(pretransform, "scale", 1.0)
        audio = self._audio(reals)
        with torch.no_grad():
            if draws is not None and not is_vae(pretransform):
                return self._encode_by_item(audio, draws)
            mean, deviation = encode_posterior(pretransform.eval(), audio)
        if draws is None:
            return mean
        return mean + deviation * draws.normal("posterior", mean.shape[1:], mean.device)

    def _encode_by_item(self, audio: Tensor, draws: ItemRandomness) -> Tensor:
        """Latents of an autoencoder whose bottleneck may draw from the global generators."""
        pretransform, latents = self.diffusion.pretransform.eval(), []
        for item, generator in zip(audio.split(1), draws.generators("posterior"), strict=True):
            with as_global(generator, self.device):
                latents.append(encode_tracks(pretransform, item))
        return torch.cat(latents)

    def _audio(self, reals: Tensor) -> Tensor | None:
        """(b, k, channels, samples), None of a batch of latents."""
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

    def _weights(self, t: Tensor, metadata: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Which tracks (b, k) are known, on the CPU, and what each counts, on the device."""
        known = known_tracks(metadata)
        return known, loss_weights(t, known, self.config.loss_weights).to(self.device)

    def _randomness(self, seed: int, seen: int, batch_size: int) -> ItemRandomness:
        ranks = self.trainer.world_size
        return ItemRandomness(seed, item_numbers(seen, batch_size, self.global_rank, ranks))

    def wrap_fsdp(self) -> None:
        """Shard the blocks' attention, feed-forward and projections; called by SAT's FSDP strategy.

        SAT shards blocks as a whole, but the projections run before them, once for all blocks.
        """
        for block in self.diffusion.model.model.transformer.layers:
            for name in ("self_attn", "ff", "to_modulations"):
                setattr(block, name, wrap(getattr(block, name)))

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


def _unwrapped(reals: Tensor) -> Tensor:
    """WebDataset wraps a batch once more."""
    return reals[0] if reals.ndim == 4 and reals.shape[0] == 1 else reals


def create_mge_training_wrapper(
    model_config: Mapping[str, Any], model: MGEModel
) -> MGETrainingWrapper:
    """Build the wrapper from the `training` section of a model config."""
    return MGETrainingWrapper(model, training_config(model_config))
