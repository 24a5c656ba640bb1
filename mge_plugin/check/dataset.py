"""Rules of a dataset config, down to the songs on disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mge_plugin.check.latents import check_latents
from mge_plugin.check.values import Config, as_list, at, problems_of
from mge_plugin.config import choose, found, parse_section
from mge_plugin.registry import is_our_dataset

if TYPE_CHECKING:
    from mge_plugin.data.corpora.config import CorpusConfig

FOLDER_TYPES = ("audio_dir", "pre_encoded")  # of SAT, its datasets are local folders
OUR_TYPES = ("mge_triplets", "mge_tracks", "mge_latents")
OTHER_TYPES = ("wds", "s3")  # of SAT, its datasets may be anywhere


def check_dataset(config: Config) -> list[str]:
    """What keeps the dataset from being read."""
    return list(_check_triplets(config) if is_our_dataset(config) else _check_sat(config))


def _check_triplets(config: Config) -> Iterator[str]:
    from mge_plugin.data.corpora.cache import AUTO, cache_folder
    from mge_plugin.data.corpora.config import CorpusConfig
    from mge_plugin.data.loaders import DATASET_TYPES

    if wrong := problems_of(choose, "dataset_type", config["dataset_type"], DATASET_TYPES):
        yield from wrong
        return
    if config["dataset_type"] == "mge_latents":
        yield from check_latents(config)
        return
    section = DATASET_TYPES[config["dataset_type"]].config
    yield from problems_of(parse_section, section, config, "dataset config")
    folder = config.get("index_cache", AUTO)
    folder = cache_folder(folder) if isinstance(folder, str) else None
    for entry in as_list(config.get("datasets")):
        if not problems_of(parse_section, CorpusConfig, entry, ""):
            yield from _check_corpus(parse_section(CorpusConfig, entry, ""), folder)


def _check_corpus(corpus: "CorpusConfig", cache: Path | None) -> Iterator[str]:
    """Read the songs of one corpus alone: what is wrong with it must not hide the next."""
    from mge_plugin.data.corpora.index import index_corpora

    try:
        index_corpora([corpus], cache)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: ~user of no user
        yield f"datasets: {corpus.id}: {error}"


def _check_sat(config: Config) -> Iterator[str]:
    """SAT's own types, as far as it would tell by a traceback."""
    known = dict.fromkeys((*FOLDER_TYPES, *OTHER_TYPES, *OUR_TYPES))
    if wrong := problems_of(choose, "dataset_type", config.get("dataset_type"), known):
        yield from wrong
        return
    entries = as_list(config.get("datasets"))
    if not entries:
        yield f"datasets: expected a list of one or more, found {found(config.get('datasets'))}"
    if config["dataset_type"] in FOLDER_TYPES:
        for i, entry in enumerate(entries):
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
