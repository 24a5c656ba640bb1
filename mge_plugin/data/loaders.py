"""Our dataset types, and the loader of each."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader

from mge_plugin.config import choose
from mge_plugin.data.dataset import TripletsConfig, create_triplet_dataloader
from mge_plugin.data.latents.config import LatentsConfig
from mge_plugin.data.latents.dataset import create_latents_dataloader
from mge_plugin.data.tracks import TracksConfig, create_track_dataloader

DATASET_TYPES: dict[str, Callable[..., DataLoader]] = {
    "mge_triplets": create_triplet_dataloader,
    "mge_latents": create_latents_dataloader,
    "mge_tracks": create_track_dataloader,
}
CONFIGS = {
    "mge_triplets": TripletsConfig,
    "mge_latents": LatentsConfig,
    "mge_tracks": TracksConfig,
}


def create_mge_dataloader(
    dataset_config: Mapping[str, Any], *args: Any, **kwargs: Any
) -> DataLoader:
    """Build the loader of one of our dataset types; an unknown type raises with the nearest one."""
    where = "dataset config.dataset_type"
    create = choose(where, dataset_config["dataset_type"], DATASET_TYPES)
    return create(dataset_config, *args, **kwargs)
