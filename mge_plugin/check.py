"""`mge check`: do a model config and a dataset config fit each other and the disk? All problems at once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.registry import DIFFUSION_TYPE, is_our_dataset, is_our_model
from mge_plugin.tracks import NUM_TRACKS


def check_configs(model_path: Path, dataset_path: Path | None = None) -> list[str]:
    """Every problem found, one sentence each; an empty list means that training can start."""
    problems: list[str] = []
    model = _read(problems, model_path)
    dataset = dataset_path and _read(problems, dataset_path)
    if model is not None:
        problems += [f"{model_path}: {problem}" for problem in _model_problems(model)]
    if dataset:
        problems += [f"{dataset_path}: {problem}" for problem in _dataset_problems(dataset)]
    if model and dataset:
        problems += _fit_problems(model, dataset)
    return problems


def _read(problems: list[str], path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except ConfigError as error:
        problems.append(str(error))
        return None


def _model_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("model_type") == "autoencoder":
        yield from _autoencoder_problems(config.get("model", {}))
        yield from _size_problems(config, config.get("model", {}))
        return
    if not is_our_model(config):
        yield f"model.diffusion.type is not {DIFFUSION_TYPE!r}: this is not a three-track model"
        return
    from mge_plugin.models.mge import ModelConfig, check_channels
    from mge_plugin.training.config import training_config

    for read in (
        lambda: check_channels(parse_section(ModelConfig, config["model"], "model")),
        lambda: training_config(config),
    ):
        try:
            read()
        except ConfigError as error:
            yield from str(error).splitlines()
    if config.get("model_type") != "diffusion_cond_inpaint":
        yield f"model_type is {config.get('model_type')!r}, expected 'diffusion_cond_inpaint'"
    autoencoder = config["model"].get("pretransform", {}).get("config", {})
    yield from _autoencoder_problems(autoencoder)
    yield from _size_problems(config, autoencoder)
    yield from _latent_problems(config["model"], autoencoder)


def _autoencoder_problems(autoencoder: Mapping[str, Any]) -> Iterator[str]:
    strides = autoencoder.get("encoder", {}).get("config", {}).get("strides")
    ratio = autoencoder.get("downsampling_ratio")
    inner = autoencoder.get("pretransform", {}).get("config", {})
    if strides and ratio and not inner:
        product = 1
        for stride in strides:
            product *= stride
        if product != ratio:
            yield f"downsampling_ratio is {ratio}, but the strides {strides} make {product}"


def _size_problems(config: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> Iterator[str]:
    for key in ("sample_rate", "sample_size"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            yield f"{key}: expected a whole number above 0, found {config.get(key)!r}"
            return
    ratio = autoencoder.get("downsampling_ratio")
    if ratio and config["sample_size"] % ratio:
        nearest = max(1, round(config["sample_size"] / ratio)) * ratio
        yield (
            f"sample_size {config['sample_size']} is not divisible by the downsampling ratio "
            f"{ratio}; the nearest that is: {nearest}"
        )
    channels = config.get("audio_channels", 2)
    if autoencoder.get("io_channels", channels) != channels:
        yield (
            f"audio_channels is {channels}, but the autoencoder's io_channels is "
            f"{autoencoder['io_channels']}"
        )


def _latent_problems(model: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> Iterator[str]:
    latent, channels = autoencoder.get("latent_dim"), model.get("io_channels")
    if latent and channels != NUM_TRACKS * latent:
        yield (
            f"model.io_channels is {channels}, expected {NUM_TRACKS} x {latent} latent channels "
            f"= {NUM_TRACKS * latent}"
        )


def _dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if not is_our_dataset(config):
        for entry in config.get("datasets", []):
            if not Path(str(entry.get("path", ""))).expanduser().exists():
                yield f"datasets: no such folder {entry.get('path')!r}"
        return
    from mge_plugin.config import choose
    from mge_plugin.data.dataset import DATASET_TYPES, TripletsConfig, index_songs

    try:
        choose("dataset_type", config["dataset_type"], DATASET_TYPES)
        index_songs(parse_section(TripletsConfig, config, "dataset config"))
    except ConfigError as error:
        yield str(error)


def _fit_problems(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Iterator[str]:
    if is_our_model(model) and not is_our_dataset(dataset):
        yield (
            f"the model has three tracks, but dataset_type {dataset.get('dataset_type')!r} "
            "gives one waveform: expected 'mge_triplets'"
        )
    if model.get("model_type") == "autoencoder" and is_our_dataset(dataset):
        yield "an autoencoder is trained on single waveforms, e.g. dataset_type 'audio_dir'"
