"""Our dataset types, and the loader of each as SAT's scripts ask for it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError, choose, parse_section
from mge_plugin.data.batches import item_loader
from mge_plugin.data.dataset import TripletsConfig, open_triplets
from mge_plugin.data.latents.config import LatentsConfig
from mge_plugin.data.latents.dataset import open_latents
from mge_plugin.data.tracks import TracksConfig, open_tracks
from mge_plugin.data.window import Asked


@dataclass(frozen=True)
class DatasetType:
    """A `dataset_type`: what its config is, and what opens it."""

    config: type
    open: Callable[[Any, Asked], Dataset]  # config, what the model takes


PRE_ENCODER = "PreEncodedLatentsInferenceWrapper"  # a class by which SAT's pre_encode.py is known

DATASET_TYPES = {
    "mge_triplets": DatasetType(TripletsConfig, open_triplets),
    "mge_tracks": DatasetType(TracksConfig, open_tracks),
    "mge_latents": DatasetType(LatentsConfig, open_latents),
}


def create_mge_dataloader(
    dataset_config: Mapping[str, Any],
    batch_size: int,
    sample_size: int,
    sample_rate: int,
    audio_channels: int = 2,
    num_workers: int = 4,
    shuffle: bool = True,
    **newer_options: Any,
) -> DataLoader:
    """Build the loader of one of our dataset types; an unknown type raises with the nearest one.

    The arguments are those of SAT's `create_dataloader_from_config`. `sample_size` is the window in
    samples, of latents that of the audio they were made from. SAT 0.0.20 has options more
    (tokenizers, pad), of which our types know none.
    """
    name = dataset_config["dataset_type"]
    kind = choose("dataset config.dataset_type", name, DATASET_TYPES)
    if unknown := {key for key, value in newer_options.items() if value not in (None, True)}:
        raise ConfigError(f"dataset type {name} does not support {sorted(unknown)}")
    config = parse_section(kind.config, dataset_config, "dataset config")
    _refuse_pre_encoding(name)
    asked = Asked(sample_size, sample_rate, audio_channels)
    if name == "mge_latents" and config.from_shards:
        from mge_plugin.data.latents.shards import shard_loader  # webdataset is an extra of SAT's

        return shard_loader(config, batch_size, asked, num_workers)
    dataset, seconds = kind.open(config, asked), sample_size / sample_rate
    return item_loader(
        dataset, batch_size, seconds, config.seed, shuffle, num_workers, config.drop_last
    )


def _refuse_pre_encoding(name: str) -> None:
    """SAT's pre_encode.py keeps windows of one waveform each, which our trainings cannot read.

    It asks for a loader just as train.py does; only what runs in `__main__` tells the two apart.
    """
    if hasattr(sys.modules.get("__main__"), PRE_ENCODER):
        raise ConfigError(
            f"dataset type {name}: pre_encode.py cannot encode it, use `mge encode` with a dataset "
            "config of type mge_triplets (docs/encoding.md)"
        )
