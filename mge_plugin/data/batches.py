"""Items to SAT's batches."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError
from mge_plugin.data.sampler import ItemSampler

Item = tuple[Tensor, dict[str, Any]]


def collate(items: list[Item]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Stacked reals (batch, 3 * channels, samples or frames) and a list of metadata."""
    reals, metadata = zip(*items, strict=True)
    return torch.stack(reals), list(metadata)


def item_loader(
    dataset: Dataset,
    batch_size: int,
    seconds: float,
    seed: int,
    shuffle: bool = True,
    num_workers: int = 0,
    drop_last: bool = True,
) -> DataLoader:
    """A loader of a dataset of windows, `seconds` long, whose item numbers decide all.

    One without a batch raises ConfigError.
    """
    if drop_last and len(dataset) < batch_size:
        raise ConfigError(
            f"dataset config: {len(dataset)} windows of {seconds:.2f} s are fewer than one batch "
            f"of {batch_size}; set epoch_items or a smaller batch size"
        )
    return DataLoader(
        dataset,
        batch_size,
        sampler=ItemSampler(dataset, shuffle, seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        collate_fn=collate,
    )
