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
    overlap: int  # of neighbours; at most half a window, so that no frame is in three

    def __post_init__(self) -> None:
        if self.length < 1 or self.size < 1:
            raise ValueError(
                f"windows: length and size must be 1 or more, found {self.length} and {self.size}"
            )
        if not 0 <= self.overlap <= self.size // 2:
            raise ValueError(
                f"windows: overlap must be from 0 to half of size {self.size}, found {self.overlap}"
            )

    @classmethod
    def cover(cls, length: int, size: int) -> "Windows":
        """Windows over `length` frames; a signal up to `size` long needs one."""
        return cls(length, size, int(size * OVERLAP))

    @property
    def starts(self) -> list[int]:
        """First frame of each window; all but the last end within the signal."""
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
        """Ones, but a linear rise over the window before and the fall that completes the next's."""
        size, ramp = self.size * scale, self.overlap * scale
        fade, rise = torch.ones(size), (torch.arange(ramp) + 0.5) / max(ramp, 1)
        if index > 0:
            fade[:ramp] = rise
        if index < len(self.starts) - 1:
            fade[size - ramp :] = 1 - rise
        return fade
