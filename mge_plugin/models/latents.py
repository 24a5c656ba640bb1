"""Tracks of audio to latents and back, through the model's autoencoder."""

from einops import rearrange
from stable_audio_tools.models.bottleneck import VAEBottleneck
from torch import Tensor, nn


def encode_tracks(pretransform: nn.Module, audio: Tensor, sample: bool = False) -> Tensor:
    """(b, k, channel, sample) to latents (b, k, c, n).

    `sample` draws from a VAE's posterior, as in training; otherwise its mean is taken.
    """
    batch = audio.shape[0]
    waveforms = rearrange(audio, "b k c s -> (b k) c s")
    if not sample and isinstance(pretransform.model.bottleneck, VAEBottleneck):
        latents = _encode_mean(pretransform, waveforms)
    else:
        latents = pretransform.encode(waveforms)
    return rearrange(latents.float(), "(b k) c n -> b k c n", b=batch)


def decode_tracks(pretransform: nn.Module, latents: Tensor) -> Tensor:
    """Latents (b, k, c, n) to audio (b, k, channel, sample)."""
    audio = pretransform.decode(rearrange(latents, "b k c n -> (b k) c n"))
    return rearrange(audio.float(), "(b k) c s -> b k c s", b=latents.shape[0])


def _encode_mean(pretransform: nn.Module, waveforms: Tensor) -> Tensor:
    """The posterior's mean, what SAT's `encode` would add noise to; (batch, c, n)."""
    autoencoder = pretransform.model
    waveforms = waveforms.to(next(autoencoder.parameters()).dtype)
    if autoencoder.pretransform is not None:
        waveforms = autoencoder.pretransform.encode(waveforms)
    mean, _ = autoencoder.encoder(waveforms).chunk(2, dim=1)
    return mean / pretransform.scale
