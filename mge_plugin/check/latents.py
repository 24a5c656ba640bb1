"""Rules of a dataset config of type `mge_latents`, alone and beside a model config."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mge_plugin.check.values import Config, as_list, at, problems_of, whole
from mge_plugin.config import ConfigError, parse_section

if TYPE_CHECKING:
    from mge_plugin.data.latents.song import StoreInfo

HEARING = ("mge_clap", "mge_text_audio")  # types of conditioners that are trained on audio


def check_latents(config: Config) -> Iterator[str]:
    """What keeps the latents from being read."""
    from mge_plugin.data.latents.config import LatentsConfig

    if wrong := problems_of(parse_section, LatentsConfig, config, "dataset config"):
        yield from wrong
        return
    try:
        latents_info(config)
    except (ValueError, OSError) as error:
        yield str(error)


def latents_info(config: Config) -> "StoreInfo | None":
    """What the latents of folders have in common; shards are not opened ahead, so None."""
    from mge_plugin.data.latents.config import LatentsConfig
    from mge_plugin.data.latents.dataset import open_folders

    section = parse_section(LatentsConfig, config, "dataset config")
    if section.from_shards:
        from mge_plugin.data.latents.shards import shard_urls

        shard_urls(section.datasets)
        return None
    return next(iter(open_folders(section.datasets)[0].values())).store


def check_latents_pair(model: Config, dataset: Config) -> Iterator[str]:
    """Whether the latents are of the model's autoencoder, as far as configs tell."""
    if at(model, "training.pre_encoded") is not True:
        yield "dataset_type 'mge_latents' gives latents, but training.pre_encoded is not true"
    try:
        info = latents_info(dataset)
    except (ConfigError, ValueError, OSError):
        return  # told by check_latents
    if info is not None:
        yield from _misfits(model, info)


def _misfits(model: Config, info: "StoreInfo") -> Iterator[str]:
    from mge_plugin.data.window import Asked
    from mge_plugin.tracks import NUM_TRACKS

    asked = [whole(model, key) for key in ("sample_size", "sample_rate")]
    channels = whole(model, "audio_channels", 2)
    if None not in (*asked, channels):
        yield from info.misfits(Asked(*asked, channels))
    sizes = {
        "model.io_channels": NUM_TRACKS * info.channels,
        "model.pretransform.config.downsampling_ratio": info.ratio,
    }
    for path, size in sizes.items():
        if whole(model, path) not in (None, size):
            yield f"{path} is {at(model, path)}, but the latents ask for {size}"
    types = {at(entry, "type") for entry in as_list(at(model, "model.conditioning.configs"))}
    if types.intersection(HEARING) and info.clap is None:
        yield (
            "the model's conditioner is trained on audio, but the latents were made without audio "
            "embeddings: run mge encode with this model config"
        )
