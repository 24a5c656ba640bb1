"""The published checkpoint in and out (`mge import`): weights under our names and their SAT config.

Tensors stay where the file maps them into memory until they are written: a model of 4 GB needs no
4 GB of memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from stat import S_IMODE
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mge_plugin.files import written_whole
from mge_plugin.models import foreign, official
from mge_plugin.models.checkpoints import CheckpointError, StateDict, read_checkpoint
from mge_plugin.models.from_tensors import (
    Unseen,
    autoencoder_config,
    autoencoder_weights,
    check_fit,
    model_config,
)

PARTS = (official.OUR_NETWORK, official.AUTOENCODER)  # what a three-track model's names start with
AUTOENCODER_KINDS = (  # of what an autoencoder can be taken out
    foreign.AUTOENCODER,
    foreign.INNER_AUTOENCODER,
    foreign.AUTOENCODER_TRAINING,
)
SHOWN = 3  # names of tensors left out


@dataclass(frozen=True)
class Imported:
    """Weights under our names, the SAT model config that they fit, and what was not taken."""

    name: str  # what it is
    weights: StateDict
    config: dict[str, Any]
    left_out: list[str]
    parameters: dict[str, int]  # of each part

    def summary(self) -> list[str]:
        """Lines for a person: what it is, its sizes, its window."""
        config = self.config
        precisions = sorted({str(t.dtype).removeprefix("torch.") for t in self.weights.values()})
        lines = [f"found: {self.name}, {' and '.join(precisions)}"]
        lines += [f"{name}: {count:,} parameters" for name, count in self.parameters.items()]
        if "network" in self.parameters:
            network = config["model"]["diffusion"]["config"]
            sizes = ("depth", "num_heads", "embed_dim", "io_channels", "global_cond_dim")
            lines.append("sizes: " + ", ".join(f"{key} {network[key]}" for key in sizes))
        if self.parameters.keys() == {"network"}:
            lines.append(f"window: {config['sample_size']} latent frames; without an autoencoder")
        else:
            seconds = config["sample_size"] / config["sample_rate"]
            lines.append(f"window: {config['sample_size']} samples, {seconds:.2f} s")
        if self.left_out:
            more = ", ..." if len(self.left_out) > SHOWN else ""
            named = ", ".join(self.left_out[:SHOWN])
            lines.append(f"left out: {len(self.left_out)} other tensors ({named}{more})")
        return lines


def import_checkpoint(
    path: Path, unseen: Unseen | None = None, autoencoder_only: bool = False
) -> Imported:
    """Read a published three-track model, or an autoencoder alone; anything else raises.

    `autoencoder_only` takes the autoencoder out of a whole model, published or of this plugin.
    """
    unseen, found = unseen or Unseen(), read_checkpoint(path)
    kind = foreign.kind_of_file(path, found)
    with _naming(path):
        if kind is foreign.PUBLISHED and not autoencoder_only:
            return _import_model(found, unseen)
        whole = (foreign.PUBLISHED, foreign.OURS) if autoencoder_only else ()
        if kind in (*AUTOENCODER_KINDS, *whole):
            return _import_autoencoder(found, unseen)
        raise CheckpointError(_not_importable(kind, found))


def _not_importable(kind: foreign.Kind | None, found: Mapping[str, Tensor]) -> str:
    if kind is foreign.OURS:
        return f"{kind.name} already; --to-official makes it a published one"
    if kind is not None:
        return f"{kind.name}, expected the published three-track model; {kind.advice}"
    return (
        "neither the published three-track model nor an autoencoder, found tensors "
        f"{', '.join(sorted(found)[:SHOWN])}"
    )


def _import_model(found: Mapping[str, Tensor], unseen: Unseen) -> Imported:
    named = official.from_official(found)
    weights = {key: value for key, value in named.items() if key.startswith(PARTS)}
    config = model_config(weights, unseen)
    model = check_fit(config, weights)
    parts = {"network": model.model, "autoencoder": model.pretransform}
    left_out = sorted(named.keys() - weights.keys())
    return Imported(foreign.PUBLISHED.name, weights, config, left_out, _parameters(parts))


def _import_autoencoder(found: Mapping[str, Tensor], unseen: Unseen) -> Imported:
    weights = autoencoder_weights(found)
    if weights is None:
        raise CheckpointError("half an autoencoder: expected an encoder and a decoder")
    config = autoencoder_config(weights, unseen)
    model = check_fit(config, weights)
    taken = {id(value) for value in weights.values()}
    left_out = sorted(key for key, value in found.items() if id(value) not in taken)
    return Imported(
        "an autoencoder", weights, config, left_out, _parameters({"autoencoder": model})
    )


def _parameters(parts: Mapping[str, nn.Module | None]) -> dict[str, int]:
    return {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def export_official(path: Path, out: Path) -> int:
    """Write our model, or an autoencoder, as the published files are; returns its tensors.

    `torch.save` of a `state_dict` under the published names.
    """
    found = read_checkpoint(path)
    kind = foreign.kind_of_file(path, found)
    with _naming(path):
        if kind is foreign.OURS:
            weights = {key: value for key, value in found.items() if key.startswith(PARTS)}
            named = official.to_official(weights)
        elif kind in AUTOENCODER_KINDS:
            named = autoencoder_weights(found)
        else:
            what = kind.name if kind else f"found tensors {', '.join(sorted(found)[:SHOWN])}"
            raise CheckpointError(f"not a model of this plugin, but {what}")
    with _written(out) as partial:
        torch.save({"state_dict": _separate(named)}, partial)
    return len(named)


def write_weights(weights: Mapping[str, Tensor], out: Path, origin: str = "") -> Path:
    """A safetensors file, readable by whom the umask lets; `origin` is kept in its metadata."""
    metadata = {"format": "pt"} | ({"origin": origin} if origin else {})
    with _written(out) as partial:
        partial.touch()
        mode = S_IMODE(partial.stat().st_mode)  # save_file sets a mode of its own
        save_file(_separate(weights), partial, metadata=metadata)
        partial.chmod(mode)
    return out


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """`written_whole`; what the writers of tensors raise on a full disk becomes an OSError."""
    with written_whole(out) as partial:
        try:
            yield partial
        except (SafetensorError, RuntimeError) as error:
            free = disk_usage(out.parent).free / 1e9
            raise OSError(
                f"{out}: not written, {str(error).strip().splitlines()[0]}; "
                f"is the disk full? {free:.1f} GB are free"
            ) from error


def _separate(weights: Mapping[str, Tensor]) -> StateDict:
    """Each tensor in one piece of memory of its own, copied only where it is not."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in weights.items():
        whole = tensor.detach().contiguous()
        memory = whole.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != whole.nbytes:
            whole = whole.clone()
        seen.add(memory.data_ptr())
        separate[key] = whole
    return separate


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of a checkpoint's error with its file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
