"""`mge check`: do a model config and a dataset config fit each other and the disk?

A rule looks at one thing in the JSON as it is and passes over what another rule reports, so that no
mistake hides another: all problems are told at once.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mge_plugin.check.dataset import check_dataset
from mge_plugin.check.latents import check_latents_pair
from mge_plugin.check.model import check_files, check_model, check_training
from mge_plugin.check.values import Config, at
from mge_plugin.config import ConfigError, found, read_json
from mge_plugin.registry import is_our_dataset, is_our_model

__all__ = ["check_configs", "check_dataset", "check_model", "check_training"]


def check_configs(model_path: Path, dataset_path: Path | None = None) -> list[str]:
    """Every problem found, one sentence each; an empty list means that training can start."""
    problems: list[str] = []
    model = _check_file(problems, model_path, _check_whole_model)
    if dataset_path is not None:
        dataset = _check_file(problems, dataset_path, check_dataset)
        if model is not None and dataset is not None:
            problems += _check_pair(model, dataset)
    return problems


def _check_whole_model(config: Config) -> list[str]:
    rules = (check_model, check_training, check_files)
    return [problem for rule in rules for problem in rule(config)]


def _check_file(
    problems: list[str], path: Path, check: Callable[[Config], Iterable[str]]
) -> Config | None:
    try:
        config = read_json(path)
    except ConfigError as error:
        problems += error.problems
        return None
    problems += [f"{path}: {problem}" for problem in check(config)]
    return config


def _check_pair(model: Config, dataset: Config) -> Iterator[str]:
    """Whether the dataset gives what the model is trained on."""
    kind = found(dataset.get("dataset_type"))
    if is_our_model(model) and not is_our_dataset(dataset):
        yield f"the model has three tracks, but dataset_type {kind} gives one: use 'mge_triplets'"
    is_tracks = dataset.get("dataset_type") == "mge_tracks"
    if model.get("model_type") == "autoencoder" and is_our_dataset(dataset) and not is_tracks:
        yield f"an autoencoder trains on one waveform, not on dataset_type {kind}: use 'mge_tracks'"
    if is_our_model(model) and is_tracks:
        yield f"the model has three tracks, but dataset_type {kind} gives one: use 'mge_triplets'"
    if dataset.get("dataset_type") == "mge_latents" and is_our_model(model):
        yield from check_latents_pair(model, dataset)
    elif is_our_dataset(dataset) and at(model, "training.pre_encoded") is True:
        yield f"training.pre_encoded is true, but dataset_type {kind} gives audio, not latents"
