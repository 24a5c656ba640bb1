"""Find a model by name: shipped weights, a folder, a file with its config inside, or the Hub.

    minislakh                the weights that ship with this package
    runs/mine                a folder: model.json or model_config.json, model.safetensors or .ckpt
    mine.ckpt                a file that contains its config: checkpoints of SAT's train.py do
    user/repo, user/repo@v1  a repository of huggingface.co with model_config.json, as SAT's are

Importing this module imports neither torch nor huggingface_hub.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.files import shipped_file

DEFAULT_MODEL = "minislakh"
MODEL_VARIABLE = "MGE_MODEL"  # its value replaces the default
_CONFIGS = ("model.json", "model_config.json")
_WEIGHTS = ("model.safetensors", "model.ckpt")
_INSIDE = "model_config"  # key of a config in a checkpoint, or in a safetensors file's metadata
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Card:
    """What a model config's section "card" says about its weights."""

    labels: tuple[str, ...] = ()  # instruments that the model was trained to extract
    license: str | None = None
    notice: str | None = None  # printed when the model is used on a song


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk: its config, and the file of its weights."""

    name: str
    config: Mapping[str, Any]
    config_file: Path  # the weights' file if it contains the config
    ckpt: Path

    @property
    def paths(self) -> tuple[Path, Path | None]:
        """What `find_model` takes to find it again: config and weights, or the file of both."""
        inside = self.config_file == self.ckpt
        return (self.ckpt, None) if inside else (self.config_file, self.ckpt)

    @property
    def card(self) -> Card:
        """The section "card" of the config."""
        return parse_section(Card, self.config.get("card"), f"{self.name}: card")


def find_model(model: Path | str | None = None, ckpt: Path | str | None = None) -> ModelFiles:
    """The files of `model`; with `ckpt`, `model` is the path of a JSON config.

    Without both it is the environment's MGE_MODEL, or the shipped weights.
    """
    if ckpt is not None:
        if model is None:
            raise ConfigError("model: expected a model config beside the checkpoint, found none")
        return ModelFiles(str(model), read_json(model), Path(model), _checked(Path(ckpt)))
    name = str(model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL)
    if name in _shipped_models():
        return _in_folder(shipped_file(f"weights/{name}/model.json").parent, name)
    path = Path(name)
    if path.is_dir():
        return _in_folder(path, name)
    if path.is_file():
        return _in_file(path, name)
    if match := _HUB_ID.fullmatch(name):
        return _on_hub(match["repo"], match["revision"], name)
    raise ConfigError(
        f"model: expected {', '.join(_shipped_models())}, a folder, a file or a Hub id such as "
        f"user/repo, found {name!r}"
    )


def _shipped_models() -> list[str]:
    """The names of the weights that ship with this package."""
    folder = shipped_file(f"weights/{DEFAULT_MODEL}/model.json").parents[1]
    return sorted(path.parent.name for path in folder.glob("*/model.json"))


def available_models() -> Iterator[ModelFiles]:
    """The shipped weights, and the three-track models in the Hub's cache."""
    for name in _shipped_models():
        yield find_model(name)
    yield from _cached()


def _checked(ckpt: Path) -> Path:
    if not ckpt.is_file():
        raise ConfigError(f"{ckpt}: {'a folder' if ckpt.is_dir() else 'no such file'}")
    return ckpt


def _in_folder(folder: Path, name: str) -> ModelFiles:
    found = []
    for names in (_CONFIGS, _WEIGHTS):
        path = next((folder / n for n in names if (folder / n).is_file()), None)
        if path is None:
            raise ConfigError(f"{folder}: expected {' or '.join(names)}, found neither")
        found.append(path)
    config_file, ckpt = found
    return ModelFiles(name, read_json(config_file), config_file, ckpt)


def _in_file(path: Path, name: str) -> ModelFiles:
    if path.suffix.lower() == ".json":
        raise ConfigError(f"{path}: a model config needs its weights too (--ckpt)")
    config = _config_inside(path)
    if config is None:
        raise ConfigError(f"{path}: has no model config inside, name one (--model-config)")
    return ModelFiles(name, config, path, path)


def _config_inside(path: Path) -> Mapping[str, Any] | None:
    """The model config in a file of weights, None if there is none."""
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(_INSIDE)
    except (SafetensorError, OSError):
        from mge_plugin.models.checkpoints import load_pickled  # torch is needed from here on

        content = load_pickled(path)
        config = content.get(_INSIDE) if isinstance(content, Mapping) else None
    else:
        config = None if text is None else json.loads(text)
    return config if isinstance(config, Mapping) else None


def _on_hub(repo: str, revision: str | None, name: str) -> ModelFiles:
    """Download what is not in the Hub's cache; its own variables set token, cache, offline mode."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo, file, revision=revision))

    try:
        config_file = fetch(_CONFIGS[1])
        try:
            ckpt = fetch(_WEIGHTS[0])
        except EntryNotFoundError:
            ckpt = fetch(_WEIGHTS[1])
    except (OSError, ValueError, EntryNotFoundError) as error:  # the Hub's own errors among them
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{name}: cannot be fetched from the Hub ({reason})") from error
    return ModelFiles(name, read_json(config_file), config_file, ckpt)


def _cached() -> Iterator[ModelFiles]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from mge_plugin.registry import is_our_model

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in repositories:
        for revision in repository.revisions:
            files = {file.file_name: file.file_path for file in revision.files}
            ckpt = next((files[name] for name in _WEIGHTS if name in files), None)
            if ckpt is None or _CONFIGS[1] not in files:
                continue
            config = read_json(files[_CONFIGS[1]])
            if is_our_model(config):
                name = f"{repository.repo_id}@{revision.commit_hash[:8]}"
                yield ModelFiles(name, config, files[_CONFIGS[1]], ckpt)
