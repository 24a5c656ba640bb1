"""Songs longer than the model's window: cut with overlap, put together with a crossfade."""

from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 0.25  # share of a window that it has in common with the next


@dataclass(frozen=True)
class Windows:
    """Where the windows of a signal lie; all in latent frames."""

    length: int  # of the signal
    size: int  # of a window
    overlap: int

    @classmethod
    def cover(cls, length: int, size: int) -> "Windows":
        """Windows over `length` frames; a signal up to `size` long needs one."""
        return cls(length, size, int(size * OVERLAP))

    @property
    def starts(self) -> list[int]:
        hop = self.size - self.overlap
        return list(range(0, max(1, self.length - self.overlap), hop))

    @property
    def padded_length(self) -> int:
        """Length up to the end of the last window."""
        return self.starts[-1] + self.size

    def cut(self, signal: Tensor, scale: int = 1) -> Tensor:
        """(..., padded_length * scale) to (window, ..., size * scale)."""
        pieces = [signal[..., s * scale : (s + self.size) * scale] for s in self.starts]
        return torch.stack(pieces)

    def join(self, pieces: Tensor, scale: int = 1) -> Tensor:
        """(window, ..., size * scale) to (..., length * scale); the fades of a seam sum to 1."""
        joined = pieces.new_zeros(*pieces.shape[1:-1], self.padded_length * scale)
        for i, start in enumerate(self.starts):
            fade = self._fade(i, scale).to(pieces)
            joined[..., start * scale : (start + self.size) * scale] += pieces[i] * fade
        return joined[..., : self.length * scale]

    def _fade(self, index: int, scale: int) -> Tensor:
        """Ones with a linear rise where the window before ends, and the fall that completes it."""
        fade, ramp = torch.ones(self.size * scale), self.overlap * scale
        rise = (torch.arange(ramp) + 0.5) / max(ramp, 1)
        if index > 0:
            fade[:ramp] = rise
        if index < len(self.starts) - 1 and ramp:
            fade[-ramp:] = 1 - rise
        return fade
