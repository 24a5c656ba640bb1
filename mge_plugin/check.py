"""Values in a JSON config of which nothing is certain.

Rules of a dataset config of type `mge_latents`, alone and beside a model config.

Rules of a dataset config, down to the songs on disk.

Rules of an autoencoder: SAT's section `model`, or the same inside of a pretransform.

Rules of a model config: the three-track model, or the autoencoder that it needs first.

`mge check`: do a model config and a dataset config fit each other and the disk?

A rule looks at one thing in the JSON as it is and passes over what another rule reports, so that no
mistake hides another: all problems are told at once.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mge_plugin.config import ConfigError, choose, found, parse_section, read_json
from mge_plugin.registry import DIFFUSION_TYPE, is_our_coder, is_our_dataset, is_our_model

if TYPE_CHECKING:
    from mge_plugin.data.corpora.reader import CorpusConfig
    from mge_plugin.data.latents.store import StoreInfo

_Config = Mapping[str, Any]


def _at(config: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def whole(config: _Config, path: str, default: int | None = None) -> int | None:
    """The whole number above 0 at a dotted path; None if there is something else."""
    value = _at(config, path)
    value = default if value is None else value
    return value if _is_whole(value) else None


def _problems_of(parse: Callable[..., Any], *arguments: Any) -> list[str]:
    """What `parse` finds wrong with its arguments."""
    try:
        parse(*arguments)
    except ConfigError as error:
        return list(error.problems)
    return []


_HEARING = ("mge_clap", "mge_text_audio")  # types of conditioners that are trained on audio


def _check_latents(config: _Config) -> Iterator[str]:
    """What keeps the latents from being read."""
    from mge_plugin.data.latents.dataset import LatentsConfig

    if wrong := _problems_of(parse_section, LatentsConfig, config, "dataset config"):
        yield from wrong
        return
    try:
        _latents_info(config)
    except (ValueError, OSError) as error:
        yield str(error)


def _latents_info(config: _Config) -> "StoreInfo | None":
    """What the latents of folders have in common; shards are not opened ahead, so None."""
    from mge_plugin.data.latents.dataset import LatentsConfig, open_folders

    section = parse_section(LatentsConfig, config, "dataset config")
    if section.from_shards:
        from mge_plugin.data.latents.shards import shard_urls

        shard_urls(section.datasets)
        return None
    return next(iter(open_folders(section.datasets)[0].values())).store


def _check_latents_pair(model: _Config, dataset: _Config) -> Iterator[str]:
    """Whether the latents are of the model's autoencoder, as far as configs tell."""
    if _at(model, "training.pre_encoded") is not True:
        yield "dataset_type 'mge_latents' gives latents, but training.pre_encoded is not true"
    try:
        info = _latents_info(dataset)
    except (ConfigError, ValueError, OSError):
        return  # told by check_latents
    if info is not None:
        yield from _misfits(model, info)


def _misfits(model: _Config, info: "StoreInfo") -> Iterator[str]:
    from mge_plugin.data.triplets import Format
    from mge_plugin.tracks import NUM_TRACKS

    asked = [whole(model, key) for key in ("sample_size", "sample_rate")]
    channels = whole(model, "audio_channels", 2)
    if None not in (*asked, channels):
        yield from info.misfits(Format(asked[1], asked[0], channels))
    sizes = {
        "model.io_channels": NUM_TRACKS * info.channels,
        "model.pretransform.config.downsampling_ratio": info.ratio,
    }
    for path, size in sizes.items():
        if whole(model, path) not in (None, size):
            yield f"{path} is {_at(model, path)}, but the latents ask for {size}"
    types = {_at(entry, "type") for entry in _as_list(_at(model, "model.conditioning.configs"))}
    if types.intersection(_HEARING) and info.clap is None:
        yield (
            "the model's conditioner is trained on audio, but the latents were made without audio "
            "embeddings: run mge encode with this model config"
        )


_FOLDER_TYPES = ("audio_dir", "pre_encoded")  # of SAT, its datasets are local folders
_OUR_TYPES = ("mge_triplets", "mge_tracks", "mge_latents")
_OTHER_TYPES = ("wds", "s3")  # of SAT, its datasets may be anywhere


def _check_dataset(config: _Config) -> list[str]:
    """What keeps the dataset from being read."""
    return list(_check_triplets(config) if is_our_dataset(config) else _check_sat(config))


def _check_triplets(config: _Config) -> Iterator[str]:
    from mge_plugin.data.corpora.index import AUTO, cache_folder
    from mge_plugin.data.corpora.reader import CorpusConfig
    from mge_plugin.data.dataset import DATASET_TYPES

    if wrong := _problems_of(choose, "dataset_type", config["dataset_type"], DATASET_TYPES):
        yield from wrong
        return
    if config["dataset_type"] == "mge_latents":
        yield from _check_latents(config)
        return
    section = DATASET_TYPES[config["dataset_type"]][0]
    yield from _problems_of(parse_section, section, config, "dataset config")
    folder = config.get("index_cache", AUTO)
    folder = cache_folder(folder) if isinstance(folder, str) else None
    for entry in _as_list(config.get("datasets")):
        if not _problems_of(parse_section, CorpusConfig, entry, ""):
            yield from _check_corpus(parse_section(CorpusConfig, entry, ""), folder)


def _check_corpus(corpus: "CorpusConfig", cache: Path | None) -> Iterator[str]:
    """Read the songs of one corpus alone: what is wrong with it must not hide the next."""
    from mge_plugin.data.corpora.index import index_corpora

    try:
        index_corpora([corpus], cache)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: ~user of no user
        yield f"datasets: {corpus.id}: {error}"


def _check_sat(config: _Config) -> Iterator[str]:
    """SAT's own types, as far as it would tell by a traceback."""
    known = dict.fromkeys((*_FOLDER_TYPES, *_OTHER_TYPES, *_OUR_TYPES))
    if wrong := _problems_of(choose, "dataset_type", config.get("dataset_type"), known):
        yield from wrong
        return
    entries = _as_list(config.get("datasets"))
    if not entries:
        yield f"datasets: expected a list of one or more, found {found(config.get('datasets'))}"
    if config["dataset_type"] in _FOLDER_TYPES:
        for i, entry in enumerate(entries):
            yield from _check_entry(entry, f"datasets[{i}]")


def _check_entry(entry: Any, where: str) -> Iterator[str]:
    for key in ("id", "path"):
        if not isinstance(_at(entry, key), str):
            yield f"{where}.{key}: expected a text, found {found(_at(entry, key))}"
    path, module = _at(entry, "path"), _at(entry, "custom_metadata_module")
    if isinstance(path, str) and not os.path.isdir(path):
        yield f"{where}.path: no such folder {path!r}"
    if module is not None and not (isinstance(module, str) and os.path.isfile(module)):
        yield f"{where}.custom_metadata_module: no such file {module!r}"


_HOW_TO_DECODE = ("inversions", "iterations")  # an encoder does without
_SAT_CHANNELS = 2  # audio_channels of a config that does not say


def check_autoencoder(config: _Config, where: str) -> list[str]:
    """What is wrong with the autoencoder at the dotted path `where` and sizes that depend on it."""
    if not isinstance(_at(config, where), Mapping):
        return [f"{where}: expected an object, found {found(_at(config, where))}"]
    rules = (_whole_numbers, _parts, _strides, _mel, _sample_size, _audio_channels)
    return [problem for rule in rules for problem in rule(config, where)]


def _whole_numbers(config: _Config, where: str) -> Iterator[str]:
    needed = [f"{where}.{key}" for key in ("downsampling_ratio", "latent_dim", "io_channels")]
    if "audio_channels" in config:
        needed.append("audio_channels")
    for path in ("sample_rate", "sample_size", *needed):
        if whole(config, path) is None:
            yield f"{path}: expected a whole number above 0, found {found(_at(config, path))}"


def _parts(config: _Config, where: str) -> Iterator[str]:
    for path in (f"{where}.encoder.config", f"{where}.decoder.config"):
        if not isinstance(_at(config, path), Mapping):
            yield f"{path}: expected an object, found {found(_at(config, path))}"


def _strides(config: _Config, where: str) -> Iterator[str]:
    for part in ("encoder", "decoder"):
        path = f"{where}.{part}.config.strides"
        strides = _at(config, path)
        if isinstance(strides, list) and all(map(_is_whole, strides)):
            yield from _ratio(config, where, path, math.prod(strides))
        elif strides is not None:
            yield f"{path}: expected whole numbers above 0, found {found(strides)}"


def _ratio(config: _Config, where: str, path: str, product: int) -> Iterator[str]:
    ratio, inner = whole(config, f"{where}.downsampling_ratio"), _patch_size(config, where)
    if None not in (ratio, inner) and product * inner != ratio:
        patches = f", times patches of {inner}," if inner > 1 else ""
        yield (
            f"{where}.downsampling_ratio is {ratio}, but {path} "
            f"{found(_at(config, path))}{patches} make {product * inner}"
        )


def _mel(config: _Config, where: str) -> Iterator[str]:
    """Coders of type `mge_mel`: both are of one spectrogram, and the sizes follow from it."""
    sections = [_at(config, f"{where}.{part}") for part in ("encoder", "decoder")]
    if not all(map(is_our_coder, sections)):
        return
    from mge_plugin.standins.mel_autoencoder import MelConfig

    parsed, places = [], [f"{where}.{part}.config" for part in ("encoder", "decoder")]
    for section, place in zip(sections, places, strict=True):
        if wrong := _problems_of(parse_section, MelConfig, section.get("config"), place):
            yield from wrong
            return
        parsed.append(parse_section(MelConfig, section.get("config"), place))
    one, other = (asdict(section) for section in parsed)
    for key in one:
        if key not in _HOW_TO_DECODE and one[key] != other[key]:
            yield f"{places[0]} and {places[1]} differ in {key}: {one[key]} and {other[key]}"
    ratio = whole(config, f"{where}.downsampling_ratio")
    if ratio not in (None, parsed[0].ratio):
        yield (
            f"{where}.downsampling_ratio is {ratio}, but hop_length {parsed[0].hop_length} x "
            f"{parsed[0].frames} frames make {parsed[0].ratio}"
        )
    for key in ("latent_dim", "io_channels"):
        if whole(config, f"{where}.{key}") not in (None, one[key]):
            yield (
                f"{places[0]}.{key} is {one[key]}, but {where}.{key} is "
                f"{whole(config, f'{where}.{key}')}"
            )


def _patch_size(config: _Config, where: str) -> int | None:
    """Samples a step that the autoencoder's own pretransform makes one of; None if not known."""
    inner = _at(config, f"{where}.pretransform")
    if inner is None:
        return 1
    is_patched = _at(inner, "type") == "patched"
    return whole(inner, "config.patch_size") if is_patched else None


def _sample_size(config: _Config, where: str) -> Iterator[str]:
    size, ratio = whole(config, "sample_size"), whole(config, f"{where}.downsampling_ratio")
    if None not in (size, ratio) and size % ratio:
        nearest = max(1, (size + ratio // 2) // ratio) * ratio
        yield (
            f"sample_size {size} is not divisible by the downsampling ratio {ratio}; "
            f"the nearest that is: {nearest}"
        )


def _audio_channels(config: _Config, where: str) -> Iterator[str]:
    channels = whole(config, "audio_channels", _SAT_CHANNELS)
    of_autoencoder = whole(config, f"{where}.io_channels")
    if None not in (channels, of_autoencoder) and channels != of_autoencoder:
        yield f"audio_channels is {channels}, but {where}.io_channels is {of_autoencoder}"


_NETWORK = "model.diffusion.config"
AUTOENCODER = "model.pretransform.config"
PROMPTED = "model.diffusion.global_cond_ids"

# Modules of ours that import torch are imported in the rules that need them: without a model config
# that can be read, none does.


def check_model(config: _Config) -> list[str]:
    """What keeps the model, or the autoencoder, of a model config from being built."""
    if is_our_model(config):
        rules = (_types, _sections, _equal_sizes, _latents, _prompts)
        problems = [problem for rule in rules for problem in rule(config)]
        return problems + check_autoencoder(config, AUTOENCODER)
    if config.get("model_type") == "autoencoder":
        return check_autoencoder(config, "model")
    return [
        f"expected model.diffusion.type {DIFFUSION_TYPE!r} or model_type 'autoencoder', "
        f"found {found(_at(config, 'model.diffusion.type'))} and {found(config.get('model_type'))}"
    ]


def check_training(config: _Config) -> list[str]:
    """What keeps a three-track model from being trained; an autoencoder's training is SAT's."""
    if not is_our_model(config):
        return []
    from mge_plugin.training.wrapper import training_config

    problems = _problems_of(training_config, config)
    optimizer = _at(config, "training.optimizer_configs.diffusion")
    if not isinstance(optimizer, Mapping) and _at(config, "training.learning_rate") is None:
        problems.append("training: learning_rate or optimizer_configs.diffusion is needed")
    return problems


def check_files(config: _Config) -> Iterator[str]:
    """What a model is asked with and is not on disk: CLAP's files."""
    from mge_plugin.models.clap import ClapConfig

    for i, entry in enumerate(_as_list(_at(config, "model.conditioning.configs"))):
        section, where = _at(entry, "config"), f"model.conditioning.configs[{i}].config"
        is_clap = _at(entry, "type") == "mge_clap"
        if is_clap and not _problems_of(parse_section, ClapConfig, section, where):
            clap = parse_section(ClapConfig, section, where)
            yield from (f"{where}.{problem}" for problem in clap.problems())


def _types(config: _Config) -> Iterator[str]:
    expected = {"model_type": "diffusion_cond_inpaint", "model.pretransform.type": "autoencoder"}
    for path, name in expected.items():
        if _at(config, path) != name:
            yield f"{path}: expected {name!r}, found {found(_at(config, path))}"


def _sections(config: _Config) -> list[str]:
    """Unknown and missing keys, wrong types, sizes that a section's own rules refuse."""
    from mge_plugin.models.conditioning import create_conditioner
    from mge_plugin.models.mge import ModelConfig

    problems = _problems_of(parse_section, ModelConfig, config["model"], "model")
    conditioning = _at(config, "model.conditioning")
    if isinstance(conditioning, Mapping):
        problems += _problems_of(create_conditioner, conditioning)
    return problems


def _equal_sizes(config: _Config) -> Iterator[str]:
    from mge_plugin.models.dit import DiTConfig

    defaults = {field.name: field.default for field in fields(DiTConfig)}
    pairs = {"model.io_channels": "io_channels", "model.conditioning.cond_dim": "global_cond_dim"}
    for path, key in pairs.items():
        size, other = whole(config, path), whole(config, f"{_NETWORK}.{key}", defaults[key])
        if None not in (size, other) and size != other:
            yield f"{path} is {size}, but {_NETWORK}.{key} is {other}: they must be equal"


def _latents(config: _Config) -> Iterator[str]:
    from mge_plugin.tracks import NUM_TRACKS

    channels, latent = (
        whole(config, "model.io_channels"),
        whole(config, f"{AUTOENCODER}.latent_dim"),
    )
    if None not in (latent, channels) and channels != NUM_TRACKS * latent:
        yield (
            f"model.io_channels is {channels}, expected {NUM_TRACKS} x {latent} latent channels "
            f"= {NUM_TRACKS * latent}"
        )


def _prompts(config: _Config) -> Iterator[str]:
    """The prompts that the network listens to are some of those that are embedded."""
    from mge_plugin.models.mge import DiffusionConfig

    names = _at(config, PROMPTED)
    names = list(DiffusionConfig.global_cond_ids) if names is None else names
    entries = _at(config, "model.conditioning.configs")
    if isinstance(names, list) and isinstance(entries, list):
        ids = [_at(entry, "id") for entry in entries]
        if not names or any(name not in ids for name in names):
            yield f"{PROMPTED}: expected ids of {found(ids)}, found {found(names)}"


def check_configs(model_path: Path, dataset_path: Path | None = None) -> list[str]:
    """Every problem found, one sentence each; an empty list means that training can start."""
    problems: list[str] = []
    model = _check_file(problems, model_path, _check_whole_model)
    if dataset_path is not None:
        dataset = _check_file(problems, dataset_path, _check_dataset)
        if model is not None and dataset is not None:
            problems += _check_pair(model, dataset)
    return problems


def _check_whole_model(config: _Config) -> list[str]:
    rules = (check_model, check_training, check_files)
    return [problem for rule in rules for problem in rule(config)]


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


def _check_pair(model: _Config, dataset: _Config) -> Iterator[str]:
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
        yield from _check_latents_pair(model, dataset)
    elif is_our_dataset(dataset) and _at(model, "training.pre_encoded") is True:
        yield f"training.pre_encoded is true, but dataset_type {kind} gives audio, not latents"
