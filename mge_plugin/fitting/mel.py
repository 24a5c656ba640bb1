"""The matrices of an `mge_mel` autoencoder from a corpus, in closed form.

The principal components U of the log-mel features (C = U diag(v) U') give the latents with the
smallest squared error of all linear ones. Each is scaled by v^(-whitening / 2), and all by one
number that gives the latents a deviation of 1:

    z = S U'(x - mean),    x = U S^-1 z + mean

With whitening 0 a latent's share in a denoiser's loss is its share in the spectrogram, with 1 all
latents weigh the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from stable_audio_tools.models.factory import create_model_from_config
from torch import Tensor
from tqdm import tqdm

from mge_plugin import registry
from mge_plugin.config import ConfigError
from mge_plugin.encoding.autoencoder import autoencoder_section
from mge_plugin.fitting.loading import first, open_loader, write_weights
from mge_plugin.models.mel_autoencoder import MelDecoder, MelEncoder


@dataclass
class Moments:
    """Sums of features and of their products, in double precision."""

    count: int
    total: Tensor  # (features,)
    products: Tensor  # (features, features)

    @classmethod
    def zero(cls, features: int) -> "Moments":
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
class MelFit:
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
def fit_mel(model: AudioAutoencoder, batches: Iterable[Tensor], whitening: float) -> MelFit:
    """Set both matrices from `batches` (b, channel, samples) of audio."""
    if not 0 <= whitening <= 1:
        raise ConfigError(f"whitening: expected 0 to 1, found {whitening}")
    encoder, decoder = model.encoder, model.decoder
    size = encoder.config.latent_dim
    moments = Moments.zero(encoder.config.features)
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
    return MelFit(moments.count, float(variances[:size].sum() / variances.sum()))


def fit_mel_file(
    config: Mapping[str, Any],
    dataset_config: Mapping[str, Any],
    path: Path,
    *,
    windows: int,
    whitening: float,
    batch_size: int = 8,
) -> MelFit:
    """Fit the autoencoder of `config` to windows of single tracks and write its weights."""
    model = create_mel_autoencoder(config)
    loader = open_loader(dataset_config, config, batch_size)
    audio = first((reals for reals, _ in loader), -(-windows // batch_size))
    fit = fit_mel(model, audio, whitening)
    write_weights(model.state_dict(), path)
    return fit
