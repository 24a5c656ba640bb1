"""Batches to fit to, and the weights that come of it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from stable_audio_tools.data import dataset
from torch import Tensor
from torch.utils.data import DataLoader

from mge_plugin import registry
from mge_plugin.files import written_whole

Batch = TypeVar("Batch")


def open_loader(
    dataset_config: Mapping[str, Any], model: Mapping[str, Any], batch_size: int, workers: int = 1
) -> DataLoader:
    """SAT's loader of a dataset config, for what a model config takes."""
    registry.install()
    return dataset.create_dataloader_from_config(
        dataset_config,
        batch_size=batch_size,
        sample_size=model["sample_size"],
        sample_rate=model["sample_rate"],
        audio_channels=model["audio_channels"],
        num_workers=workers,
    )


def first(batches: Iterable[Batch], count: int) -> list[Batch]:
    """So many of them, fewer if there are no more; a list, so that progress knows its length."""
    return [batch for _, batch in zip(range(count), batches, strict=False)]


def endless(loader: DataLoader) -> Iterator[Any]:
    """Epoch after epoch, each shuffled anew."""
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def write_weights(weights: Mapping[str, Tensor], path: Path) -> Path:
    """As safetensors, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with written_whole(path) as partial:
        save_file(contiguous, partial)
    return path
