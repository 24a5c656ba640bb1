"""Modules that stay float32 in a halved model."""

from collections.abc import Callable

from torch import Tensor, nn


class Float32Module(nn.Module):
    """Follows `to`, `half` and the like to another device, not to another precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep, recurse)
