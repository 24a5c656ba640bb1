"""How the small stand-ins are fitted: mel autoencoder, text-audio encoder, and a denoiser on them.

The matrices of an `mge_mel` autoencoder follow from a corpus in closed form. The principal
components U of the log-mel features (C = U diag(v) U') give the latents with the smallest squared
error of all linear ones. Each is scaled by v^(-whitening / 2), and all by one number that gives the
latents a deviation of 1:

    z = S U'(x - mean),    x = U S^-1 z + mean

With whitening 0 a latent's share in a denoiser's loss is its share in the spectrogram, with 1 all
latents have equal weight.

The text-audio encoder is trained contrastively on the tracks of triplets: source and mixture are
the audio, the prompt and the list of the mixture's labels are their texts. Many items of a batch
have the same text, so a sound has several right texts (Khosla et al. 2020, "Supervised Contrastive
Learning", with one encoder per side): the target of a row is spread evenly over equal texts.

The denoiser is trained as SAT's train.py does it, without its loggers and demos.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mge_plugin.config import ConfigError
from mge_plugin.data.dataset import create_mge_dataloader
from mge_plugin.files import write_json, written_whole
from mge_plugin.models.autoencoder import autoencoder_section, create_pretransform
from mge_plugin.models.checkpoints import (
    autoencoder_weights,
    load_into,
    read_checkpoint,
    write_weights,
)
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.models.mge import MGEModel, create_mge_model
from mge_plugin.prompts import label_prompt, track_prompts
from mge_plugin.standins.mel_autoencoder import MelDecoder, MelEncoder
from mge_plugin.standins.text_audio import TextAudio, to_mono
from mge_plugin.tracks import NUM_TRACKS, Track
from mge_plugin.training.wrapper import create_mge_training_wrapper

_Batch = TypeVar("_Batch")


def _open_loader(
    dataset_config: Mapping[str, Any], model: Mapping[str, Any], batch_size: int, workers: int = 1
) -> DataLoader:
    """The loader of a dataset config for a model config."""
    return create_mge_dataloader(
        dataset_config,
        batch_size=batch_size,
        sample_size=model["sample_size"],
        sample_rate=model["sample_rate"],
        audio_channels=model["audio_channels"],
        num_workers=workers,
    )


def first(batches: Iterable[_Batch], count: int) -> list[_Batch]:
    """The first `count` batches, fewer if there are no more."""
    return [batch for _, batch in zip(range(count), batches, strict=False)]


def _endless(loader: DataLoader) -> Iterator[Any]:
    """Epoch after epoch, each in its own order."""
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


_STATE = "training"  # the checkpoint in the output folder that a stopped run resumes from


def fit_denoiser(
    model_config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    weights: Path,
    out: Path,
    *,
    steps: int,
    batch_size: int,
    precision: str = "32-true",
    device: str = "cpu",
    workers: int = 1,
    every: int = 500,
) -> Path:
    """Train and write `model.json` and `model.safetensors` (averaged weights) in `out`.

    `weights` are the autoencoder's, or a whole model's to start from. The state is saved every
    `every` steps; the same call resumes from it.
    """
    torch.manual_seed(model_config["training"].get("seed", 0))
    model = create_mge_model(model_config)
    _load(model, weights)
    wrapper = create_mge_training_wrapper(model_config, model)
    loader = _open_loader(dataset_config, model_config, batch_size, workers)
    keeper = ModelCheckpoint(
        str(out), filename=_STATE, every_n_train_steps=every, enable_version_counter=False
    )
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        max_steps=steps,
        precision=precision,
        gradient_clip_val=1.0,
        callbacks=[keeper],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=True,
    )
    state = out / f"{_STATE}.ckpt"
    trainer.fit(wrapper, loader, ckpt_path=str(state) if state.exists() else None)
    return export(wrapper.to("cpu"), model_config, out)


def export(wrapper: pl.LightningModule, config: Mapping[str, Any], out: Path) -> Path:
    """Write the averaged weights (`model.safetensors`) and their config (`model.json`)."""
    out.mkdir(parents=True, exist_ok=True)
    with written_whole(out / "model.safetensors") as partial:
        wrapper.export_model(str(partial), use_safetensors=True)
    write_json(out / "model.json", config, 4)
    return out


def halve(source: Path, target: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Copy a checkpoint with every tensor of floats in half precision."""
    weights = read_checkpoint(source)
    return write_weights(
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}, target
    )


def _load(model: MGEModel, path: Path) -> None:
    """A whole model's weights, or those of its autoencoder alone."""
    if any(name.startswith("model.") for name in read_checkpoint(path)):
        load_into(model, path)
    else:
        load_into(model.pretransform.model, path, autoencoder_weights)


@dataclass
class _Moments:
    """Sums of features and of their products, in double precision."""

    count: int
    total: Tensor  # (features,)
    products: Tensor  # (features, features)

    @classmethod
    def zero(cls, features: int) -> "_Moments":
        """No features yet."""
        double = torch.float64
        return cls(0, torch.zeros(features, dtype=double), torch.zeros(features, features).double())

    def add(self, features: Tensor) -> None:
        """(item, features)."""
        rows = features.double()
        self.count += len(rows)
        self.total += rows.sum(dim=0)
        self.products += rows.T @ rows

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (features,) and covariance (features, features)."""
        mean = self.total / self.count
        return mean, self.products / self.count - torch.outer(mean, mean)


@dataclass(frozen=True)
class _MelFit:
    """The result of a fit."""

    frames: int  # latent frames that were used
    kept: float  # share of the features' variance that the latents keep


def _create_mel_autoencoder(config: Mapping[str, Any]) -> AudioAutoencoder:
    """SAT's autoencoder whose coders are both `mge_mel`, of its own config or a model's with it."""
    section = {"type": "autoencoder", "config": autoencoder_section(config)}
    model = create_pretransform(section, config["sample_rate"]).model
    parts = (getattr(model, "encoder", None), getattr(model, "decoder", None))
    if not isinstance(parts[0], MelEncoder) or not isinstance(parts[1], MelDecoder):
        raise ConfigError(
            "mge fit-mel fits an autoencoder whose encoder and decoder are of type mge_mel, found "
            f"{type(parts[0]).__name__} and {type(parts[1]).__name__}"
        )
    return model


@torch.no_grad()
def _fit_mel(model: AudioAutoencoder, batches: Iterable[Tensor], whitening: float) -> _MelFit:
    """Set both matrices from `batches` (b, channel, samples) of audio."""
    if not 0 <= whitening <= 1:
        raise ConfigError(f"whitening: expected 0 to 1, found {whitening}")
    encoder, decoder = model.encoder, model.decoder
    size = encoder.config.latent_dim
    moments = _Moments.zero(encoder.config.features)
    for audio in tqdm(batches, desc="fitting", unit="batch"):
        moments.add(encoder.features(audio).flatten(0, 1))
    if moments.count <= size:
        raise ConfigError(f"{moments.count} latent frames are too few to fit {size} channels to")
    mean, covariance = moments.covariance()
    variances, components = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    variances = variances.clamp_min(1e-9)
    scales = variances[:size] ** (-whitening / 2)
    scales /= (scales.square() * variances[:size]).mean().sqrt()
    encoder.analysis.copy_(scales[:, None] * components[:, :size].T)
    decoder.synthesis.copy_(components[:, :size] / scales)
    encoder.mean.copy_(mean)
    decoder.mean.copy_(mean)
    return _MelFit(moments.count, float(variances[:size].sum() / variances.sum()))


def fit_mel_file(
    config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    path: Path,
    *,
    windows: int,
    whitening: float,
    batch_size: int = 8,
) -> _MelFit:
    """Fit the autoencoder of `config` to windows of single tracks and write its weights."""
    model = _create_mel_autoencoder(config)
    loader = _open_loader(dataset_config, config, batch_size)
    audio = first((reals for reals, _ in loader), -(-windows // batch_size))
    fit = _fit_mel(model, audio, whitening)
    write_weights(model.state_dict(), path)
    return fit


_START = 2.6  # logarithm of the first temperature's inverse; CLIP's
_AUDIBLE = 1e-3  # smallest RMS of a sound that is used


def _contrastive_loss(sounds: Tensor, texts: Tensor, names: Sequence[str], scale: Tensor) -> Tensor:
    """Of unit vectors (n, width) each; equal `names` are the same text."""
    same = torch.tensor([[a == b for b in names] for a in names], device=sounds.device).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = scale.exp() * sounds @ texts.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _pairs_of(
    reals: Tensor, metadata: Sequence[dict[str, Any]], key: str
) -> tuple[list[Tensor], list[str]]:
    """Audible sounds (samples,) and their texts of a batch of triplets (b, k*channels, samples)."""
    sounds, texts = [], []
    for item, audio in zip(metadata, reals.unflatten(1, (NUM_TRACKS, -1)), strict=True):
        prompt = track_prompts(item[key]).get(Track.SOURCE)
        named = {Track.MIXTURE: label_prompt(sorted(set(item["labels"]["mixture"])))}
        if prompt is not None and prompt.text is not None and prompt.has_text:
            named[Track.SOURCE] = prompt.text
        for track, text in named.items():
            if audio[track].square().mean().sqrt() > _AUDIBLE:
                sounds.append(audio[track].mean(dim=0))
                texts.append(text)
    return sounds, texts


def _fit_text_audio(
    embedder: TextAudio, batches: Iterable[Any], rate: int, steps: int, key: str = "prompt"
) -> float:
    """Train in place for `steps` batches of triplets; the last loss, averaged over some steps."""
    embedder.requires_grad_(True)
    scale = nn.Parameter(torch.tensor(_START, device=embedder.texts.words.weight.device))
    parameters = [*embedder.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    average = math.nan
    with tqdm(total=steps, desc="text and audio", unit="step") as bar:
        for reals, metadata in batches:
            sounds, texts = _pairs_of(reals, metadata, key)
            audio = torch.stack([to_mono(sound, rate) for sound in sounds]).to(scale.device)
            loss = _contrastive_loss(embedder.sounds(audio), embedder.texts(texts), texts, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average = loss.item() if math.isnan(average) else 0.95 * average + 0.05 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{average:.3f}")
            if bar.n == steps:
                break
    embedder.requires_grad_(False)
    return average


def _create_text_audio(config: Mapping[str, Any]) -> tuple[str, TextAudio]:
    """The `mge_text_audio` conditioner of a model config and its id; none, or two, raise."""
    conditioners = create_conditioner(config["model"]["conditioning"]).conditioners
    ours = {k: c.embedder for k, c in conditioners.items() if isinstance(c.embedder, TextAudio)}
    if len(ours) != 1:
        raise ConfigError(
            "model.conditioning: expected one conditioner of type mge_text_audio, found "
            f"{len(ours)} of {len(conditioners)}"
        )
    return next(iter(ours.items()))


def fit_text_audio_file(
    config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    path: Path,
    *,
    steps: int,
    batch_size: int,
    device: str,
    seed: int,
) -> float:
    """Train the text-audio encoder of `config` on triplets and write its weights; the last loss."""
    torch.manual_seed(seed)
    key, embedder = _create_text_audio(config)
    embedder.to(device)
    batches = _endless(_open_loader(dataset_config, config, batch_size))
    loss = _fit_text_audio(embedder, batches, config["sample_rate"], steps, key)
    write_weights(embedder.state_dict(), path)
    return loss
