"""Weights from disk into a model: every key fits, or an error says which do not.

SAT's own loader skips keys that do not fit; the model then stays random and sounds like noise.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mge_plugin.models import official
from mge_plugin.models.official import StateDict

WRAPPED = "diffusion."  # keys of a Lightning checkpoint of SAT's diffusion training
AVERAGED = "diffusion_ema.ema_model."
SHOWN = 8  # keys named of each kind of problem

# Names that tell of another kind of checkpoint, and what to do with it.
KINDS = {
    (official.NETWORK,): "the published implementation's file; `mge import` makes it one of ours",
    ("module.text_branch.", "text_branch."): (
        "a CLAP; the model config names it as ckpt_path of its mge_clap conditioner"
    ),
    ("autoencoder.", "autoencoder_ema."): (
        "a training checkpoint of an autoencoder; unwrap it, and give it to a training as "
        "--pretransform-ckpt-path"
    ),
    ("encoder.layers.", "decoder.layers."): (
        "an autoencoder alone, expected a whole three-track model"
    ),
}
# First bytes of files that are no checkpoint at all.
FOREIGN = {
    b"<!doctype": "a web page, saved in place of the file; download it again",
    b"<html": "a web page, saved in place of the file; download it again",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message says what is wrong."""


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a `.safetensors` file or a `.ckpt`; a training one is unwrapped."""
    return unwrap(read_weights(Path(path)))


def read_weights(path: Path) -> StateDict:
    """The same under the names that the file has, mapped into memory until they are used."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    content = load_tensors(path) if path.suffix.lower() == ".safetensors" else load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not _are_weights(state_dict):
        raise CheckpointError(f"{path}: holds no weights, expected tensors by name")
    return dict(state_dict)


def load_tensors(path: Path) -> StateDict:
    """A safetensors file's content."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote, if it is tensors and plain values: nothing in the file is run."""
    mapped = zipfile.is_zipfile(path)  # torch's older format cannot be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if foreign is None:
            raise _unreadable(path, "not written by torch.save") from error
        raise CheckpointError(
            f"{path}: refused, since opening it would call {foreign[1]}; expected tensors, numbers "
            "and texts only"
        ) from error
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        raise _unreadable(path, str(error)) from error


def unwrap(state_dict: StateDict) -> StateDict:
    """A training checkpoint's keys to the model's own, the averaged network where there is one.

    Does what SAT's `unwrap_model.py` does; a checkpoint that is not wrapped is returned as it is.
    """
    if not any(key.startswith(WRAPPED) for key in state_dict):
        return state_dict
    plain = {k.removeprefix(WRAPPED): v for k, v in state_dict.items() if k.startswith(WRAPPED)}
    averaged = {
        f"model.{key.removeprefix(AVERAGED)}": value
        for key, value in state_dict.items()
        if key.startswith(AVERAGED)
    }
    return plain | averaged


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a checkpoint into `model`; missing, unexpected or misshapen keys raise, by name."""
    state_dict = official.old_weight_norm(read_checkpoint(path))
    problems = misfits(model.state_dict(), state_dict)
    if problems:
        raise CheckpointError(_kind_of(path, state_dict) or _misfit(path, problems))
    model.load_state_dict(state_dict)


def _misfit(path: Path | str, problems: list[str]) -> str:
    return f"{path}: does not fit the model config: {'; '.join(problems)}"


def _kind_of(path: Path | str, state_dict: Mapping[str, Tensor]) -> str | None:
    """What a file is that does not fit, if its names tell, and what to do with it."""
    for starts, sentence in KINDS.items():
        if any(key.startswith(starts) for key in state_dict):
            return f"{path}: {sentence}"
    return None


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected or misshapen in `found`, one phrase a kind."""
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "misshapen": shapes,
    }
    return [_describe(kind, keys) for kind, keys in kinds.items() if keys]


def _describe(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{more})"


def _are_weights(content: Mapping) -> bool:
    named = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    return bool(content) and named


def _unreadable(path: Path, reason: str) -> CheckpointError:
    reason = reason.strip().splitlines()[0][:200] if reason.strip() else "it ends too early"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    for begins, sentence in FOREIGN.items():
        if start.startswith(begins):
            return CheckpointError(
                f"{path}: not a readable checkpoint but {sentence} ({size} bytes)"
            )
    return CheckpointError(
        f"{path}: not a readable checkpoint ({size} bytes: {reason}); "
        "an incomplete download or another kind of file?"
    )
