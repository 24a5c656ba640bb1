"""Windows of songs longer than the model's: cut with overlap, joined with cross-fades."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_OVERLAP = 0.25  # share of a window that overlaps with the next


@dataclass(frozen=True)
class Windows:
    """The windows of a signal; lengths in frames."""

    length: int  # of the signal
    size: int  # of a window
    overlap: int  # of neighbours; at most half a window, so that no frame is in three windows

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
        return cls(length, size, int(size * _OVERLAP))

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
        """(window, ..., size * scale) to (..., length * scale), cross-faded."""
        joined = pieces.new_zeros(*pieces.shape[1:-1], self.padded_length * scale)
        for i, start in enumerate(self.starts):
            fade = self.fade(i, scale).to(pieces)
            joined[..., start * scale : (start + self.size) * scale] += pieces[i] * fade
        return joined[..., : self.length * scale]

    def fade(self, index: int, scale: int = 1) -> Tensor:
        """Cross-fade weights: 1, with linear ramps over the overlaps."""
        size, ramp = self.size * scale, self.overlap * scale
        fade, rise = torch.ones(size), (torch.arange(ramp) + 0.5) / max(ramp, 1)
        if index > 0:
            fade[:ramp] = rise
        if index < len(self.starts) - 1:
            fade[size - ramp :] = 1 - rise
        return fade


class WindowRows:
    """Selected windows of the songs of a batch as the rows of another batch, and back.

    `chosen` are (item, window) pairs. Where windows of a song overlap they are cross-faded; frames
    that none of them covers are zeros.
    """

    def __init__(
        self,
        windows: Windows,
        chosen: Sequence[tuple[int, int]],
        items: int,
        device: torch.device | str,
    ) -> None:
        self.windows, self.items = windows, items
        length, frames = windows.padded_length, torch.arange(windows.size)
        places = [item * length + windows.starts[w] + frames for item, w in chosen]
        self.item = torch.tensor([item for item, _ in chosen], device=device)
        self.place = torch.stack(places).to(device)  # (row, frame) in the concatenated songs
        self.fades = torch.stack([windows.fade(w) for _, w in chosen]).to(device)
        total = torch.zeros(items * length, device=device)
        total.index_add_(0, self.place.flatten(), self.fades.flatten())
        self.fades = self.fades / total.clamp_min(1e-8)[self.place]
        self.whole = len(windows.starts) == 1 and [i for i, _ in chosen] == list(range(items))

    def __len__(self) -> int:
        return len(self.item)

    def cut(self, x: Tensor) -> Tensor:
        """(b, ..., padded_length) to (row, ..., size)."""
        if self.whole:
            return x
        concatenated = x.movedim(0, -2).flatten(-2)
        return concatenated[..., self.place].movedim(-2, 0)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """The rows of something by frame (b, ..., padded_length), or by item (b, k)."""
        return tensor[self.item] if tensor.ndim == 2 else self.cut(tensor)

    def join(self, rows: Tensor) -> Tensor:
        """(row, ..., size) to (b, ..., padded_length)."""
        if self.whole:
            return rows
        fades = self.fades.view(len(self), *[1] * (rows.ndim - 2), -1).to(rows.dtype)
        faded = (rows * fades).movedim(0, -2).flatten(-2)
        joined = rows.new_zeros(*rows.shape[1:-1], self.items * self.windows.padded_length)
        joined.index_add_(joined.ndim - 1, self.place.flatten(), faded)
        return joined.unflatten(-1, (self.items, -1)).movedim(-2, 0)
