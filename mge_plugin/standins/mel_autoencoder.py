"""An autoencoder of log-mel spectrograms: linear there and back, its phases by Griffin-Lim.

    audio --- STFT, mel bands, log ---> `frames` columns at once --- analysis ---> a latent frame
    audio <-- Griffin-Lim <-- magnitudes <-- mel bands <-- synthesis -----------------'

`analysis` and `synthesis` are matrices that `mge fit-mel` fits in closed form (principal
components) and that SAT's autoencoder training may refine. A latent has no phase, so a small error
of a denoiser is a small audible error, and silence is a latent like any other: a stand-in for a
waveform VAE where only minutes of a CPU are available to train. Waveforms are not reconstructed, so
it is no autoencoder for mastering. Everything is computed in float32.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from librosa.filters import mel as mel_bands
from torch import Tensor, nn

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.models.dit import Float32Module

_TINY = 1e-8  # keeps quotients finite
_MASK_INVERSIONS = 5  # of 30: 14.71 dB of SI-SDR instead of 14.78 by masks of true latents
_MOMENTUM = 0.99  # of fast Griffin-Lim (Perraudin et al. 2013)


@dataclass(frozen=True)
class MelConfig:
    """`config` of an autoencoder's `encoder` and `decoder` of type `mge_mel`, the same in both."""

    sample_rate: int = 16000  # Hz
    io_channels: int = 1  # of the audio
    n_fft: int = 1024  # samples of the STFT's window
    hop_length: int = 128  # samples
    n_mels: int = 96  # bands from 0 to half the rate, HTK's scale
    frames: int = 8  # STFT frames of a latent frame
    latent_dim: int = 64  # channels of a latent frame
    floor: float = 1e-4  # power added to a band before the logarithm
    inversions: int = 30  # steps from mel bands to magnitudes
    iterations: int = 24  # of Griffin-Lim

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        for key in ("sample_rate", "io_channels", "hop_length", "n_mels", "frames", "latent_dim"):
            if getattr(self, key) < 1:
                yield f"{key} must be 1 or more, found {getattr(self, key)}"
        for key in ("inversions", "iterations"):
            if getattr(self, key) < 0:
                yield f"{key} must be 0 or more, found {getattr(self, key)}"
        if self.hop_length > 0 and (self.n_fft % 2 or self.n_fft < 4 * self.hop_length):
            yield f"n_fft must be even and 4 hops or more, found {self.n_fft}"
        if not self.floor > 0:
            yield f"floor must be above 0, found {self.floor}"
        if self.latent_dim > self.features:
            yield f"latent_dim must be {self.features} features or fewer, found {self.latent_dim}"

    @property
    def ratio(self) -> int:
        """Samples of a latent frame."""
        return self.hop_length * self.frames

    @property
    def features(self) -> int:
        """Numbers of a latent frame before they are projected."""
        return self.io_channels * self.n_mels * self.frames


class _MelSpectrogram(Float32Module):
    """The STFT and its mel bands, there and back.

    Frames are centred on their own hop, so a signal of n hops has n frames; around it is silence.
    """

    bands: Tensor  # (band, bin)
    window: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        bands = mel_bands(
            sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, htk=True, norm=None
        )
        self.register_buffer("bands", torch.from_numpy(bands).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    @property
    def _around(self) -> int:
        """Samples of a frame before, and after, its own hop; one more after if odd."""
        return (self.config.n_fft - self.config.hop_length) // 2

    def stft(self, audio: Tensor) -> Tensor:
        """(b, samples) to (b, bins, frames), complex."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        padded = F.pad(audio.float(), (self._around, n_fft - hop - self._around))
        return torch.stft(padded, n_fft, hop, window=self.window, center=False, return_complex=True)

    def istft(self, spectrum: Tensor) -> Tensor:
        """The signal (b, samples) whose STFT is nearest to (b, bins, frames)."""
        frames = torch.fft.irfft(spectrum, n=self.config.n_fft, dim=1) * self.window[:, None]
        weight = self.window.square()[None, :, None].expand(1, -1, spectrum.shape[-1])
        return self._overlap_add(frames) / self._overlap_add(weight).clamp_min(_TINY)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Windows (b, n_fft, frames) to (b, samples)."""
        n_fft, hop, count = self.config.n_fft, self.config.hop_length, frames.shape[-1]
        length = (count - 1) * hop + n_fft
        signal = F.fold(frames, (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
        return signal[:, self._around : self._around + count * hop]

    def log_mel(self, audio: Tensor) -> Tensor:
        """(b, samples) to natural-log powers (b, bands, frames)."""
        return (self.bands @ self.stft(audio).abs().square() + self.config.floor).log()

    def magnitudes(self, log_mel: Tensor, inversions: int | None = None) -> Tensor:
        """Magnitudes (b, bins, frames) whose mel bands are these: non-negative, by

            P <- P * B'(m / BP) / B'1

        (Richardson-Lucy, Lee and Seung's update for the Kullback-Leibler divergence).
        """
        power = (log_mel.exp() - self.config.floor).clamp_min(0.0)
        per_bin = self.bands.sum(dim=0)[:, None].clamp_min(_TINY)
        estimate = self.bands.T @ (power / self.bands.sum(dim=1)[:, None]) / per_bin
        for _ in range(self.config.inversions if inversions is None else inversions):
            quotient = (power + _TINY) / (self.bands @ estimate + _TINY)
            estimate = estimate * (self.bands.T @ quotient) / per_bin
        return estimate.clamp_min(0.0).add(_TINY**2).sqrt()

    def griffin_lim(self, magnitudes: Tensor) -> Tensor:
        """A signal (b, samples) of such magnitudes (b, bins, frames); the same at every call.

        Gradients pass through the magnitudes, the phases are held.
        """
        with torch.no_grad():
            phases = self._phases(magnitudes)
        return self.istft(magnitudes * phases)

    def _phases(self, magnitudes: Tensor) -> Tensor:
        """Fast Griffin-Lim from phases of 0, as unit complex numbers."""
        phases = torch.ones_like(magnitudes, dtype=torch.complex64)
        previous = torch.zeros_like(phases)
        for _ in range(self.config.iterations):
            rebuilt = self.stft(self.istft(magnitudes * phases))
            phases = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * previous
            phases, previous = phases / phases.abs().clamp_min(_TINY), rebuilt
        return phases


class MelEncoder(Float32Module):
    """(b, channel, samples) to latents (b, c, n)."""

    mean: Tensor  # of the features

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrogram = _MelSpectrogram(config)
        self.register_buffer("mean", torch.zeros(config.features))
        self.analysis = nn.Parameter(torch.eye(config.latent_dim, config.features))

    def features(self, audio: Tensor) -> Tensor:
        """(b, channel, samples) to log powers (b, n, features)."""
        channels = audio.shape[1]
        log_mel = self.spectrogram.log_mel(rearrange(audio, "b c s -> (b c) s"))
        return rearrange(log_mel, "(b c) m (n k) -> b n (k c m)", c=channels, k=self.config.frames)

    def forward(self, audio: Tensor) -> Tensor:
        features = self.features(audio) - self.mean
        return rearrange(features @ self.analysis.T, "b n c -> b c n").to(audio.dtype)


class MelDecoder(Float32Module):
    """Latents (b, c, n) to (b, channel, samples)."""

    mean: Tensor  # of the features

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrogram = _MelSpectrogram(config)
        self.register_buffer("mean", torch.zeros(config.features))
        self.synthesis = nn.Parameter(torch.eye(config.features, config.latent_dim))

    def forward(self, latents: Tensor) -> Tensor:
        audio = self.spectrogram.griffin_lim(self._magnitudes(latents))
        return self._by_channel(audio).to(latents.dtype)

    @torch.no_grad()
    def with_phases(self, latents: Tensor, like: Tensor) -> Tensor:
        """As `forward`, with the phases of audio `like` (b, channel, samples), not Griffin-Lim's.

        For masks on that audio, where magnitudes need less precision.
        """
        phases = self.spectrogram.stft(rearrange(like, "b c s -> (b c) s"))
        phases = phases / phases.abs().clamp_min(_TINY)
        magnitudes = self._magnitudes(latents, min(self.config.inversions, _MASK_INVERSIONS))
        return self._by_channel(self.spectrogram.istft(magnitudes * phases))

    def _magnitudes(self, latents: Tensor, inversions: int | None = None) -> Tensor:
        """Latents (b, c, n) to STFT magnitudes (b * channel, bins, frames)."""
        channels, frames = self.config.io_channels, self.config.frames
        features = rearrange(latents.float(), "b c n -> b n c") @ self.synthesis.T + self.mean
        log_mel = rearrange(features, "b n (k c m) -> (b c) m (n k)", c=channels, k=frames)
        return self.spectrogram.magnitudes(log_mel, inversions)

    def _by_channel(self, audio: Tensor) -> Tensor:
        return rearrange(audio, "(b c) s -> b c s", c=self.config.io_channels)


def create_encoder(encoder_config: Mapping[str, Any]) -> MelEncoder:
    """From SAT's section `encoder`."""
    return MelEncoder(_section(encoder_config, "encoder"))


def create_decoder(decoder_config: Mapping[str, Any]) -> MelDecoder:
    """From SAT's section `decoder`."""
    return MelDecoder(_section(decoder_config, "decoder"))


def _section(config: Mapping[str, Any], part: str) -> MelConfig:
    return parse_section(MelConfig, config.get("config"), f"{part}.config")
