"""`mge check`: are a model config and a dataset config sound, and do they fit each other?

The rules of a section belong to the module that reads it. Here they are collected, so that all
problems are reported at once; then the model is built without memory and one step of shapes is run.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from stable_audio_tools.models.pretransforms import AutoencoderPretransform
from torch import Tensor, nn

from mge_plugin.config import (
    ConfigError,
    at,
    choose,
    found,
    parse_section,
    problems_of,
    read_json,
    whole,
)
from mge_plugin.data.corpora.index import AUTO, cache_folder, index_corpora
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.dataset import DATASET_TYPES, group_problems
from mge_plugin.data.latents.dataset import LatentsConfig, open_folders
from mge_plugin.data.latents.shards import shard_urls
from mge_plugin.data.latents.store import StoreInfo
from mge_plugin.data.triplets import Format
from mge_plugin.models.autoencoder import autoencoder_problems
from mge_plugin.models.clap import ClapConfig
from mge_plugin.models.mge import MGEModel, create_mge_model, model_problems
from mge_plugin.registry import DIFFUSION_TYPE, is_our_dataset, is_our_model
from mge_plugin.tracks import NUM_TRACKS
from mge_plugin.training.config import training_problems

_Config = Mapping[str, Any]

_AUDIO_CONDITIONERS = ("mge_clap", "mge_text_audio")  # trained on audio embeddings
_FOLDER_TYPES = ("audio_dir", "pre_encoded")  # of SAT, with local folders as datasets
_OTHER_TYPES = ("wds", "s3")  # of SAT, with datasets anywhere

_UNREADABLE = (ValueError, OSError, RuntimeError)  # RuntimeError: ~user of no user

_MAX_SAMPLES = 2**31 - 1  # in a window: far more than any memory


def check_configs(model_path: Path, dataset_path: Path | None = None) -> list[str]:
    """Every problem found, one sentence each; an empty list means that training can start."""
    problems: list[str] = []
    model = _check_file(problems, model_path, _check_model)
    if dataset_path is not None:
        dataset = _check_file(problems, dataset_path, _check_dataset)
        if model is not None and dataset is not None:
            problems += _check_pair(model, dataset)
    return problems


def _check_file(
    problems: list[str], path: Path, check: Callable[[_Config], Iterable[str]]
) -> _Config | None:
    try:
        config = read_json(path)
    except ConfigError as error:
        problems += error.problems
        return None
    problems += [f"{path}: {problem}" for problem in check(config)]
    return config


def _check_model(config: _Config) -> list[str]:
    """Problems of a three-track model or of an autoencoder."""
    if is_our_model(config):
        problems = model_problems(config)
        parameters, misfits = ([], []) if problems else _build(config)
        problems += training_problems(config, parameters or [nn.Parameter(torch.zeros(1))])
        problems += _missing_files(config)
        return problems + misfits
    if config.get("model_type") == "autoencoder":
        return autoencoder_problems(config, "model")
    return [
        f"expected model.diffusion.type {DIFFUSION_TYPE!r} or model_type 'autoencoder', "
        f"found {found(at(config, 'model.diffusion.type'))} and {found(config.get('model_type'))}"
    ]


def _build(config: _Config) -> tuple[list[nn.Parameter], list[str]]:
    """The parameters of the model, built without memory, and the problems that one step shows."""
    parameters: list[nn.Parameter] = []
    try:
        model = _create_on_meta(config)
        parameters = list(model.model.parameters())
        return parameters, list(_run_shapes(model, config))
    except Exception as error:  # SAT and torch raise any kind for what cannot be built
        return parameters, [f"model: cannot be built: {_reason(error)}"]


def _create_on_meta(config: _Config) -> MGEModel:
    """The model of a config without memory for its weights."""
    with torch.device("meta"):
        return create_mge_model(config).to("meta")


def _missing_files(config: _Config) -> Iterator[str]:
    """CLAP's files."""
    entries = at(config, "model.conditioning.configs")
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        section, where = at(entry, "config"), f"model.conditioning.configs[{i}].config"
        is_clap = at(entry, "type") == "mge_clap"
        if is_clap and not problems_of(parse_section, ClapConfig, section, where):
            clap = parse_section(ClapConfig, section, where)
            yield from (f"{where}.{problem}" for problem in clap.problems())


@torch.no_grad()
def _run_shapes(model: MGEModel, config: _Config) -> Iterator[str]:
    """One step of the model on tensors that have shapes but no memory."""
    frames, channels = config["sample_size"], config["model"]["io_channels"]
    if frames > _MAX_SAMPLES:
        yield f"sample_size: expected at most {_MAX_SAMPLES} samples, found {frames}"
        return
    if model.pretransform is not None:
        frames //= model.pretransform.downsampling_ratio
        yield from _run_autoencoder(model.pretransform, config, frames)
    elif at(config, "training.pre_encoded") is not True:
        yield "model.pretransform: needed unless training.pre_encoded is true"
    x = torch.zeros(1, channels, frames, device="meta")
    width = config["model"]["conditioning"]["cond_dim"]
    prompts = torch.zeros(1, NUM_TRACKS, width, device="meta")
    yield from _same_shape("model", lambda: model.model(x, x[:, 0, 0], global_cond=prompts), x)


def _run_autoencoder(
    pretransform: AutoencoderPretransform, config: _Config, frames: int
) -> Iterator[str]:
    autoencoder, scale = pretransform.model, pretransform.scale
    if not isinstance(scale, (int, float)):
        yield f"model.pretransform.scale: expected a number, found {found(scale)}"
        return
    shape = (1, pretransform.io_channels, config["sample_size"])
    audio = torch.zeros(shape, device="meta")
    latents = torch.zeros(1, pretransform.encoded_channels, frames, device="meta")
    yield from _same_shape(
        "model.pretransform: encoding",
        lambda: autoencoder.encode(audio) / scale,
        latents,
    )
    yield from _same_shape(
        "model.pretransform: decoding",
        lambda: autoencoder.decode(latents * scale),
        audio,
    )


def _same_shape(where: str, run: Callable[[], Tensor], expected: Tensor) -> Iterator[str]:
    try:
        shape = tuple(run().shape)
    except Exception as error:  # SAT and torch raise any kind for sizes that do not fit
        yield f"{where} fails: {_reason(error)}"
        return
    if shape != tuple(expected.shape):
        yield f"{where} makes the shape {shape}, expected {tuple(expected.shape)}"


def _reason(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_dataset(config: _Config) -> Iterator[str]:
    """What keeps the dataset from being read, down to the songs on disk."""
    kinds = dict.fromkeys((*_FOLDER_TYPES, *_OTHER_TYPES, *DATASET_TYPES))
    if wrong := problems_of(choose, "dataset_type", config.get("dataset_type"), kinds):
        yield from wrong
    elif config["dataset_type"] == "mge_latents":
        yield from _check_latents(config)
    elif is_our_dataset(config):
        yield from _check_triplets(config)
    else:
        yield from _check_sat(config)


def _check_latents(config: _Config) -> Iterator[str]:
    if wrong := problems_of(parse_section, LatentsConfig, config, "dataset config"):
        yield from wrong
        return
    try:
        _latents_info(config)
    except (ValueError, OSError) as error:
        yield str(error)


def _latents_info(config: _Config) -> StoreInfo | None:
    """What the latents of folders have in common; None for shards, which are not opened."""
    section = parse_section(LatentsConfig, config, "dataset config")
    if section.from_shards:
        shard_urls(section.datasets)
        return None
    return next(iter(open_folders(section.datasets)[0].values())).store


def _check_triplets(config: _Config) -> list[str]:
    section = DATASET_TYPES[config["dataset_type"]][0]
    problems = problems_of(parse_section, section, config, "dataset config")
    cache = config.get("index_cache", AUTO)
    cache = cache_folder(cache) if isinstance(cache, str) else None
    together: list[str] = []
    if not problems:
        parsed: Any = parse_section(section, config, "dataset config")
        try:
            return list(group_problems(parsed.source, index_corpora(parsed.datasets, cache)))
        except _UNREADABLE as error:
            together = [str(error)]
    entries = config.get("datasets")
    for entry in entries if isinstance(entries, list) else []:
        if not problems_of(parse_section, CorpusConfig, entry, ""):
            problems += _check_corpus(parse_section(CorpusConfig, entry, ""), cache)
    return problems or together


def _check_corpus(corpus: CorpusConfig, cache: Path | None) -> Iterator[str]:
    """Read the songs of one corpus alone: a problem with it must not hide the next."""
    try:
        index_corpora([corpus], cache)
    except _UNREADABLE as error:
        yield f"datasets: {corpus.id}: {error}"


def _check_sat(config: _Config) -> Iterator[str]:
    """SAT's own types, as far as it would report a problem by a traceback."""
    entries = config.get("datasets")
    if not isinstance(entries, list) or not entries:
        yield f"datasets: expected a list of one or more, found {found(entries)}"
        return
    for i, entry in enumerate(entries if config["dataset_type"] in _FOLDER_TYPES else []):
        yield from _check_entry(entry, f"datasets[{i}]")


def _check_entry(entry: Any, where: str) -> Iterator[str]:
    for key in ("id", "path"):
        if not isinstance(at(entry, key), str):
            yield f"{where}.{key}: expected a text, found {found(at(entry, key))}"
    path, module = at(entry, "path"), at(entry, "custom_metadata_module")
    if isinstance(path, str) and not os.path.isdir(path):
        yield f"{where}.path: no such folder {path!r}"
    if module is not None and not (isinstance(module, str) and os.path.isfile(module)):
        yield f"{where}.custom_metadata_module: no such file {module!r}"


def _check_pair(model: _Config, dataset: _Config) -> Iterator[str]:
    """Whether the dataset has what the model is trained on."""
    kind, ours = dataset.get("dataset_type"), is_our_model(model)
    if not isinstance(kind, str):
        return  # reported by _check_dataset
    if ours and (kind == "mge_tracks" or not is_our_dataset(dataset)):
        yield (
            f"the model has three tracks, but dataset_type {found(kind)} gives one: "
            "use 'mge_triplets'"
        )
    if model.get("model_type") == "autoencoder" and kind in DATASET_TYPES and kind != "mge_tracks":
        yield (
            f"an autoencoder trains on one waveform, not on dataset_type {found(kind)}: "
            "use 'mge_tracks'"
        )
    if kind == "mge_latents" and ours:
        yield from _check_latents_pair(model, dataset)
    elif is_our_dataset(dataset) and at(model, "training.pre_encoded") is True:
        yield (
            f"training.pre_encoded is true, but dataset_type {found(kind)} gives audio, not latents"
        )


def _check_latents_pair(model: _Config, dataset: _Config) -> Iterator[str]:
    """Whether the latents are of the model's autoencoder, as far as configs show it."""
    if at(model, "training.pre_encoded") is not True:
        yield "dataset_type 'mge_latents' gives latents, but training.pre_encoded is not true"
    try:
        info = _latents_info(dataset)
    except (ValueError, OSError):
        return  # reported by _check_latents
    if info is not None:
        yield from _latents_misfits(model, info)


def _latents_misfits(model: _Config, info: StoreInfo) -> Iterator[str]:
    size, rate = whole(model, "sample_size"), whole(model, "sample_rate")
    channels = whole(model, "audio_channels", 2)
    if size and rate and channels:
        yield from info.misfits(Format(rate, size, channels))
    sizes = {
        "model.io_channels": NUM_TRACKS * info.channels,
        "model.pretransform.config.downsampling_ratio": info.ratio,
    }
    for path, expected in sizes.items():
        if whole(model, path) not in (None, expected):
            yield f"{path} is {at(model, path)}, but the latents need {expected}"
    entries = at(model, "model.conditioning.configs")
    types = {at(entry, "type") for entry in (entries if isinstance(entries, list) else [])}
    if types.intersection(_AUDIO_CONDITIONERS) and info.clap is None:
        yield (
            "the model's conditioner is trained on audio, but the latents were made without audio "
            "embeddings: run mge encode with this model config"
        )
