"""Tracks of audio to latents and back, through the model's autoencoder."""

import torch
import torch.nn.functional as F
from einops import rearrange
from stable_audio_tools.models.bottleneck import VAEBottleneck
from torch import Tensor, nn

MIN_DEVIATION = 1e-4  # SAT's VAE adds it


def is_vae(pretransform: nn.Module) -> bool:
    """Whether its latents are drawn from a posterior of known mean and deviation."""
    return isinstance(pretransform.model.bottleneck, VAEBottleneck)


def encode_tracks(pretransform: nn.Module, audio: Tensor) -> Tensor:
    """(b, k, channel, sample) to latents (b, k, c, n), of a VAE the posterior's mean."""
    return encode_posterior(pretransform, audio)[0]


def encode_posterior(pretransform: nn.Module, audio: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation (b, k, c, n) of a VAE's latents; other latents come without deviation."""
    waveforms = rearrange(audio, "b k c s -> (b k) c s").to(_precision(pretransform))
    encode = _encode_vae if is_vae(pretransform) else _encode_otherwise
    if pretransform.iterate_batch:  # SAT's option: as much memory as one waveform needs
        parts = [encode(pretransform, waveform) for waveform in waveforms.split(1)]
        parts = [None if None in p else torch.cat(p) for p in zip(*parts, strict=True)]
    else:
        parts = encode(pretransform, waveforms)
    mean, deviation = (
        None if p is None else rearrange(p.float(), "(b k) c n -> b k c n", b=len(audio))
        for p in parts
    )
    return mean, deviation


def decode_tracks(pretransform: nn.Module, latents: Tensor) -> Tensor:
    """Latents (b, k, c, n) to audio (b, k, channel, sample)."""
    stacked = rearrange(latents, "b k c n -> (b k) c n").to(_precision(pretransform))
    audio = pretransform.decode(stacked)
    return rearrange(audio.float(), "(b k) c s -> b k c s", b=latents.shape[0])


def _encode_vae(pretransform: nn.Module, waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """What SAT's `encode` draws from: it adds noise from the global generator."""
    autoencoder = pretransform.model
    if autoencoder.pretransform is not None:
        waveforms = autoencoder.pretransform.encode(waveforms)
    mean, scale = autoencoder.encoder(waveforms).chunk(2, dim=1)
    deviation = F.softplus(scale) + MIN_DEVIATION
    return mean / pretransform.scale, deviation / pretransform.scale


def _encode_otherwise(pretransform: nn.Module, waveforms: Tensor) -> tuple[Tensor, None]:
    return pretransform.encode(waveforms), None


def _precision(pretransform: nn.Module) -> torch.dtype:
    """Of the weights, half in a halved model."""
    return next(pretransform.parameters()).dtype
