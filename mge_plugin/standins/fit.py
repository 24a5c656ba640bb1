"""Contrastive training of a small text-audio encoder on the tracks of triplets.

Of each item the source and the mixture are sounds, the prompt and the list of what sounds are their
texts. Many items of a batch are asked by the same text, so a sound has as many right texts as there
are (Khosla et al. 2020, "Supervised Contrastive Learning", with one tower a side): the target of a
row is spread evenly over its equals.

Batches to fit to, and the weights that come of it.

A three-track model trained by its own configs for so many steps, through SAT's factories.

What SAT's train.py does, without its loggers and demos: for small models that are made in one go.

The matrices of an `mge_mel` autoencoder from a corpus, in closed form.

The principal components U of the log-mel features (C = U diag(v) U') give the latents with the
smallest squared error of all linear ones. Each is scaled by v^(-whitening / 2), and all by one
number that gives the latents a deviation of 1:

    z = S U'(x - mean),    x = U S^-1 z + mean

With whitening 0 a latent's share in a denoiser's loss is its share in the spectrogram, with 1 all
latents weigh the same.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from stable_audio_tools.data import dataset
from stable_audio_tools.models import factory as models
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.training import factory as training
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mge_plugin import registry
from mge_plugin.config import ConfigError
from mge_plugin.files import write_file, written_whole
from mge_plugin.models.autoencoder import autoencoder_section, autoencoder_weights
from mge_plugin.models.checkpoints import CheckpointError, load_weights, misfits, read_checkpoint
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.models.mge import MGEModel
from mge_plugin.prompts import label_prompt, track_prompts
from mge_plugin.standins.mel_autoencoder import MelDecoder, MelEncoder
from mge_plugin.standins.text_audio import TextAudio, to_mono
from mge_plugin.tracks import NUM_TRACKS, Track

_Batch = TypeVar("_Batch")


def _open_loader(
    dataset_config: Mapping[str, Any], model: Mapping[str, Any], batch_size: int, workers: int = 1
) -> DataLoader:
    """SAT's loader of a dataset config, for what a model config takes."""
    registry.install()
    return dataset.create_dataloader_from_config(
        dataset_config,
        batch_size=batch_size,
        sample_size=model["sample_size"],
        sample_rate=model["sample_rate"],
        audio_channels=model["audio_channels"],
        num_workers=workers,
    )


def first(batches: Iterable[_Batch], count: int) -> list[_Batch]:
    """So many of them, fewer if there are no more; a list, so that progress knows its length."""
    return [batch for _, batch in zip(range(count), batches, strict=False)]


def _endless(loader: DataLoader) -> Iterator[Any]:
    """Epoch after epoch, each shuffled anew."""
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> Path:
    """As safetensors, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with written_whole(path) as partial:
        save_file(contiguous, partial)
    return path


_STATE = "training"  # the checkpoint in the output folder that a stopped run goes on from


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

    `weights` are the autoencoder's, or a whole model's to start from.
    The state is saved every `every` steps; the same call resumes from it.
    """
    registry.install()
    torch.manual_seed(model_config["training"].get("seed", 0))
    model = models.create_model_from_config(model_config)
    _load(model, weights)
    wrapper = training.create_training_wrapper_from_config(model_config, model)
    loader = _open_loader(dataset_config, model_config, batch_size, workers)
    keeper = ModelCheckpoint(
        out, filename=_STATE, every_n_train_steps=every, enable_version_counter=False
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
    write_file(out / "model.json", json.dumps(config, indent=4).encode())
    return out


def halve(source: Path, target: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Copy safetensors with every tensor of floats in half precision."""
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source).items()
    }
    with written_whole(target) as partial:
        save_file(tensors, partial)
    return target


def _load(model: MGEModel, path: Path) -> None:
    weights = read_checkpoint(path)
    if any(name.startswith("model.") for name in weights):
        load_weights(model, path)
        return
    autoencoder = model.pretransform.model
    weights = autoencoder_weights(weights)
    if problems := misfits(autoencoder.state_dict(), weights):
        raise CheckpointError(f"{path}: does not fit the autoencoder: {'; '.join(problems)}")
    autoencoder.load_state_dict(weights)


@dataclass
class _Moments:
    """Sums of features and of their products, in double precision."""

    count: int
    total: Tensor  # (features,)
    products: Tensor  # (features, features)

    @classmethod
    def zero(cls, features: int) -> "_Moments":
        """Of nothing."""
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
    """What a fit came to."""

    frames: int  # latent frames it was fitted to
    kept: float  # share of the features' variance that the latents keep


def create_mel_autoencoder(config: Mapping[str, Any]) -> AudioAutoencoder:
    """SAT's autoencoder whose coders are both `mge_mel`, of its own config or a model's with it."""
    registry.install()
    own = {"model_type": "autoencoder", "model": autoencoder_section(config)}
    model = create_model_from_config({**config, **own})
    parts = (getattr(model, "encoder", None), getattr(model, "decoder", None))
    if not isinstance(parts[0], MelEncoder) or not isinstance(parts[1], MelDecoder):
        raise ConfigError(
            "mge fit-mel fits an autoencoder whose encoder and decoder are of type mge_mel, found "
            f"{type(parts[0]).__name__} and {type(parts[1]).__name__}"
        )
    return model


@torch.no_grad()
def fit_mel(model: AudioAutoencoder, batches: Iterable[Tensor], whitening: float) -> _MelFit:
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
    model = create_mel_autoencoder(config)
    loader = _open_loader(dataset_config, config, batch_size)
    audio = first((reals for reals, _ in loader), -(-windows // batch_size))
    fit = fit_mel(model, audio, whitening)
    _write_weights(model.state_dict(), path)
    return fit


_START = 2.6  # logarithm of the first temperature's inverse; CLIP's
_AUDIBLE = 1e-3  # RMS of a sound that is learned from


def contrastive_loss(sounds: Tensor, texts: Tensor, names: Sequence[str], scale: Tensor) -> Tensor:
    """Of unit vectors (n, width) each; equal `names` are the same text."""
    same = torch.tensor([[a == b for b in names] for a in names], device=sounds.device).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = scale.exp() * sounds @ texts.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pairs_of(
    reals: Tensor, metadata: Sequence[dict[str, Any]], key: str
) -> tuple[list[Tensor], list[str]]:
    """Audible sounds (samples,) and their texts of a batch of triplets (b, k*channels, samples)."""
    sounds, texts = [], []
    for item, audio in zip(metadata, reals.unflatten(1, (NUM_TRACKS, -1)), strict=True):
        asked = track_prompts(item[key]).get(Track.SOURCE)
        named = {Track.MIXTURE: label_prompt(sorted(set(item["labels"]["mixture"])))}
        if asked is not None and asked.has_text:
            named[Track.SOURCE] = asked.text
        for track, text in named.items():
            if audio[track].square().mean().sqrt() > _AUDIBLE:
                sounds.append(audio[track].mean(dim=0))
                texts.append(text)
    return sounds, texts


def fit_text_audio(
    embedder: TextAudio, batches: Iterable[Any], rate: int, steps: int, key: str = "prompt"
) -> float:
    """Train in place for `steps` batches of triplets; the last loss, averaged over some steps."""
    embedder.requires_grad_(True)
    scale = nn.Parameter(torch.tensor(_START, device=embedder.texts.words.weight.device))
    parameters = [*embedder.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    average = None
    with tqdm(total=steps, desc="text and audio", unit="step") as bar:
        for reals, metadata in batches:
            sounds, texts = pairs_of(reals, metadata, key)
            heard = torch.stack([to_mono(sound, rate) for sound in sounds]).to(scale.device)
            loss = contrastive_loss(embedder.sounds(heard), embedder.texts(texts), texts, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{average:.3f}")
            if bar.n == steps:
                break
    embedder.requires_grad_(False)
    return average


def create_text_audio(config: Mapping[str, Any]) -> tuple[str, TextAudio]:
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
    key, embedder = create_text_audio(config)
    embedder.to(device)
    batches = _endless(_open_loader(dataset_config, config, batch_size))
    loss = fit_text_audio(embedder, batches, config["sample_rate"], steps, key)
    _write_weights(embedder.state_dict(), path)
    return loss
