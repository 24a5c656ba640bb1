"""Weights from disk into a model: every key fits, or an error says which do not.

SAT's own loader skips keys that do not fit; the model then stays random and sounds like noise.
"""

import pickle
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mge_plugin.models import foreign, official
from mge_plugin.models.official import StateDict

WRAPPED = "diffusion."  # keys of a Lightning checkpoint of SAT's diffusion training
AVERAGED = "diffusion_ema.ema_model."
PARALLEL = "module."  # what DistributedDataParallel puts before every key
SHOWN = 8  # keys named of each kind of problem
LARGEST_HEADER = 10**8  # bytes, of safetensors


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message says what is wrong."""


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a safetensors file or one of torch.save's; a training's is unwrapped."""
    return unwrap(read_weights(Path(path)))


def read_weights(path: Path) -> StateDict:
    """The same under the names that the file has, mapped into memory until they are used."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    content = load_tensors(path) if _is_safetensors(path) else load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not _are_weights(state_dict):
        raise CheckpointError(f"{path}: holds {_what_else(content, state_dict)}")
    return dict(state_dict)


def _is_safetensors(path: Path) -> bool:
    """By its content, whatever its name: the length of a header, then the header, in JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER


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
        called = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if called is None:
            raise _unreadable(path, "not written by torch.save") from error
        raise _refused(path, called[1]) from error
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        raise _unreadable(path, str(error)) from error


def unwrap(state_dict: StateDict) -> StateDict:
    """A training checkpoint's keys to the model's own, the averaged network where there is one.

    Does what SAT's `unwrap_model.py` does, and the published implementation's for its own; a
    checkpoint that is not wrapped is returned as it is.
    """
    if all(key.startswith(PARALLEL) for key in state_dict):
        state_dict = {key.removeprefix(PARALLEL): value for key, value in state_dict.items()}
    if not any(key.startswith(WRAPPED) for key in state_dict):
        return state_dict
    plain = {k.removeprefix(WRAPPED): v for k, v in state_dict.items() if k.startswith(WRAPPED)}
    network = official.NETWORK if official.is_official(plain) else "model."
    averaged = {
        network + key.removeprefix(AVERAGED): value
        for key, value in state_dict.items()
        if key.startswith(AVERAGED)
    }
    return plain | averaged


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a checkpoint into `model`; missing, unexpected or misshapen keys raise, by name.

    Either naming of weight norm fits: the model's own is taken.
    """
    expected = model.state_dict()
    found = official.weight_norm_as(expected, read_checkpoint(path))
    if problems := misfits(expected, found):
        other = _other_kind(Path(path), expected, found)
        misfit = f"does not fit the model config: {'; '.join(problems)}"
        raise CheckpointError(f"{path}: {other or misfit}")
    model.load_state_dict(found)


def _other_kind(
    path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str | None:
    """What `found` is, if of another kind than `expected`, and what to do with it."""
    wanted, kind = foreign.kind_of(expected), foreign.kind_of_file(path, found)
    if kind is None or kind is wanted:
        return None
    return f"{kind.name}, expected {wanted.name if wanted else 'another'}; {kind.advice}"


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


def _what_else(content: object, state_dict: object) -> str:
    """What a file has in place of tensors by name, or among them."""
    if isinstance(state_dict, Mapping):
        others = [str(k) for k, value in state_dict.items() if not isinstance(value, Tensor)]
        if 0 < len(others) < len(state_dict):
            return f"more than tensors among its weights: {', '.join(others[:SHOWN])}"
    inside = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
    return f"no weights, expected tensors by name, found {reprlib.repr(inside)}"


def _refused(path: Path, called: str) -> CheckpointError:
    """The error of a file that holds more than tensors; its names may still tell what it is."""
    kind = foreign.kind_of_file(path, foreign.texts_in(path))
    refused = f"refused, since opening it would call {called}; expected tensors, numbers and texts"
    if kind is None:
        return CheckpointError(f"{path}: {refused} only")
    if kind is foreign.CLAP:
        return CheckpointError(f"{path}: {kind.name}; {kind.advice}")
    return CheckpointError(
        f"{path}: {kind.name}, {refused} only; write its weights alone with the unwrap_model.py of "
        "the program that trained it"
    )


def _unreadable(path: Path, reason: str) -> CheckpointError:
    size = path.stat().st_size
    if told := foreign.told_by_bytes(path):
        return CheckpointError(f"{path}: not a readable checkpoint but {told} ({size} bytes)")
    reason = reason.strip().splitlines()[0][:200] if reason.strip() else "it ends too early"
    return CheckpointError(
        f"{path}: not a readable checkpoint ({size} bytes: {reason}); "
        "an incomplete download or another kind of file?"
    )
