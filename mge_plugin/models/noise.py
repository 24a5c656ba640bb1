"""The noise process and what the network predicts, with one level `t` per track.

| here | paper, eqs. 1, 2, 9 and 10 |
|---|---|
| t | tau, noise level from 0 (clean) to 1 (noise) |
| alpha, sigma | alpha_tau, beta_tau: shares of signal and noise |
| x | z_tau = alpha * latents + sigma * noise |
| prediction | c * latents + d * noise, of which the paper's v has c = -sigma, d = alpha |

In each objective alpha * d - sigma * c = 1, so latents and noise follow from x and a prediction
without a division.
"""

import math

import torch
from torch import Tensor


class Objective:
    """What is predicted; latents, noise, x, predictions are b k c n, `t` broadcasts over them."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The share of signal and of noise at level `t`, any shape, in float32."""
        raise NotImplementedError

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The share of latents (c) and of noise (d) in the prediction."""
        raise NotImplementedError

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x` at level `t` (eq. 9)."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * latents + sigma * noise

    def log_snr(self, t: float) -> float:
        """log(alpha / sigma) at level `t` over 0 and under 1."""
        raise NotImplementedError

    def level_of(self, log_snr: Tensor) -> Tensor:
        """The level with this log(alpha / sigma), any shape."""
        raise NotImplementedError

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The prediction to learn at level `t` (eq. 10)."""
        c, d = self.weights(t)
        return c * latents + d * noise

    def denoised(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents that `x` and a prediction imply."""
        _, sigma = self.alpha_sigma(t)
        _, d = self.weights(t)
        return d * x - sigma * prediction

    def noise(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The noise that `x` and a prediction imply."""
        alpha, _ = self.alpha_sigma(t)
        c, _ = self.weights(t)
        return alpha * prediction - c * x

    def towards(self, latents: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The prediction at `x` that implies `latents`; at t = 0 there is no noise to explain."""
        _, sigma = self.alpha_sigma(t)
        _, d = self.weights(t)
        return (d * x - latents) / sigma.clamp_min(_MIN_SIGMA)


class _Velocity(Objective):
    """v = alpha * noise - sigma * latents, alpha and sigma on a circle (arXiv 2202.00512)."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.float() * (math.pi / 2)
        return torch.cos(angle), torch.sin(angle)

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(t)
        return -sigma, alpha

    def log_snr(self, t: float) -> float:
        return -math.log(math.tan(t * math.pi / 2))

    def level_of(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr)) * 2 / math.pi


class _RectifiedFlow(Objective):
    """noise - latents, x on the straight line between them (arXiv 2209.03003); t is sigma."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t.float(), t.float()

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t, dtype=torch.float), torch.ones_like(t, dtype=torch.float)

    def log_snr(self, t: float) -> float:
        return math.log((1 - t) / t)

    def level_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)


_MIN_SIGMA = 1e-4
V = _Velocity()
RECTIFIED_FLOW = _RectifiedFlow()
OBJECTIVES: dict[str, Objective] = {"v": V, "rectified_flow": RECTIFIED_FLOW}


def per_track(t: Tensor) -> Tensor:
    """Make levels (batch, track) broadcast over (batch, track, channel, frame)."""
    return t[:, :, None, None]
