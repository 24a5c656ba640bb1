"""Weights from disk into a model: every key fits, or an error says which do not.

SAT's own loader skips keys that do not fit; the model then stays random and sounds like noise.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

StateDict = dict[str, Tensor]

WRAPPED = "diffusion."  # keys of a Lightning checkpoint of SAT's diffusion training
AVERAGED = "diffusion_ema.ema_model."
SHOWN = 8  # keys named of each kind of problem


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message says what is wrong."""


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a `.safetensors` file or a `.ckpt`; a training one is unwrapped."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    content = load_tensors(path) if path.suffix.lower() == ".safetensors" else load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not _are_weights(state_dict):
        raise CheckpointError(f"{path}: holds no weights, expected tensors by name")
    return unwrap(dict(state_dict))


def load_tensors(path: Path) -> StateDict:
    """A safetensors file's content."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote, if it is tensors and plain values: nothing in the file is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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
    state_dict = read_checkpoint(path)
    problems = misfits(model.state_dict(), state_dict)
    if problems:
        raise CheckpointError(f"{path}: does not fit the model config: {'; '.join(problems)}")
    model.load_state_dict(state_dict)


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
    return CheckpointError(
        f"{path}: not a readable checkpoint ({path.stat().st_size} bytes: {reason}); "
        "an incomplete download or another kind of file?"
    )
