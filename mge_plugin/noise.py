"""The noise process of the paper (eqs. 1, 2, 9 and 10), with one level `t` per track.

| here | paper |
|---|---|
| t | tau, noise level from 0 (clean) to 1 (noise) |
| alpha, sigma | alpha_tau = cos(t * pi / 2), beta_tau = sin(t * pi / 2) |
| x | z_tau = alpha * latents + sigma * noise |
| v | alpha * noise - sigma * latents |
"""

import math

import torch
from torch import Tensor


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """The share of signal and of noise at level `t`, any shape, in float32."""
    angle = t.float() * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def per_track(t: Tensor) -> Tensor:
    """Make levels (batch, track) broadcast over (batch, track, channel, frame)."""
    return t[:, :, None, None]


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """`x` at levels `t` (batch, track); `latents` and `noise` are b k c n (eq. 9)."""
    alpha, sigma = alpha_sigma(per_track(t))
    return alpha * latents + sigma * noise


def velocity(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The target `v` at levels `t` (batch, track); `latents` and `noise` are b k c n (eq. 10)."""
    alpha, sigma = alpha_sigma(per_track(t))
    return alpha * noise - sigma * latents


def denoise(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean latents that `x` and `v` (b k c n) imply at levels `t` (batch, track)."""
    alpha, sigma = alpha_sigma(per_track(t))
    return alpha * x - sigma * v
