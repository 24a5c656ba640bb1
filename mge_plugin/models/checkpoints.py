"""Weights from disk into a model: every key fits, or an error says which do not.

SAT's own loader skips keys that do not fit; the model then stays random and sounds like noise.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

StateDict = dict[str, Tensor]

WRAPPED = "diffusion."  # keys of a Lightning checkpoint of SAT's diffusion training
AVERAGED = "diffusion_ema.ema_model."
SHOWN = 8  # keys named a kind of problem


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message says what is wrong."""


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a `.safetensors` file or a `.ckpt`, unwrapped if it is a training one."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({path.stat().st_size} bytes); "
            f"an incomplete download or another kind of file? ({_first_line(error)})"
        ) from error
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not state_dict or not all(isinstance(v, Tensor) for v in state_dict.values()):
        raise CheckpointError(f"{path}: holds no weights, expected tensors by name")
    return unwrap(dict(state_dict))


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
    """Load a checkpoint into `model`; missing, unexpected or misshapen keys raise and are listed."""
    state_dict = read_checkpoint(path)
    problems = misfits(model.state_dict(), state_dict)
    if problems:
        raise CheckpointError(f"{path}: does not fit the model config\n" + "\n".join(problems))
    model.load_state_dict(state_dict)


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Lines on the keys that are missing, unexpected or misshapen in `found`."""
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
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"  {len(keys)} {kind}: {', '.join(keys[:SHOWN])}{more}"


def _torch_load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds; each means the same to a user
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
