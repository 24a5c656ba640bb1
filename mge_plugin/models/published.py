"""The published implementation's checkpoints in and out (`mge import`).

| published | here, and in stable-audio-tools |
|---|---|
| model_dit. | model.model. |
| to_scale_shift_gate.2.weight | to_modulations.2.weight |
| pretransform.model. | pretransform.model. |

The SAT model config is made from the sizes of the tensors. Tensors stay where the file maps them
into memory until they are written: a model of 4 GB needs no 4 GB of memory.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_audio_tools.models.autoencoders import create_autoencoder_from_config
from torch import Tensor, nn

from mge_plugin.config import ConfigError, read_json
from mge_plugin.files import shipped_file
from mge_plugin.models import checkpoints
from mge_plugin.models.checkpoints import (
    AUTOENCODER_PREFIX,
    OUR_NETWORK,
    PUBLISHED_NETWORK,
    CheckpointError,
    Kind,
    StateDict,
    autoencoder_weights,
    count_numbers,
    kind_of_file,
    misfits,
    network_sizes,
    old_weight_norm,
    read_checkpoint,
    separate,
    write_tensors,
)
from mge_plugin.models.clap import CHECKPOINT, TOKENIZER, WIDTH
from mge_plugin.models.mge import create_mge_model

_Sizes = TypeVar("_Sizes")

_MODULATION, _OUR_MODULATION = ".to_scale_shift_gate.", ".to_modulations."
_HEAD_WIDTH = 32  # channels of an attention head
_AUTOENCODER_FRAMES = 16  # of a window of an autoencoder alone, as in mge_vae_16k.json
_MOST_AUDIO_CHANNELS = 8  # an autoencoder with more is one of patches of samples
_PARTS = (OUR_NETWORK, AUTOENCODER_PREFIX)  # how the names of a three-track model start
_AUTOENCODER_KINDS = (
    checkpoints.AUTOENCODER,
    checkpoints.INNER_AUTOENCODER,
    checkpoints.AUTOENCODER_TRAINING,
)
_SHOWN = 3  # names of tensors in a message


@dataclass(frozen=True)
class Unseen:
    """Settings of a published model that its tensors do not show; the defaults are its authors'."""

    norm_type: str = "groupnorm"
    sample_rate: int = 16000  # Hz
    frames: int = 100  # latent frames of a window
    final_tanh: bool = False  # of the autoencoder's decoder
    clap_ckpt: str = f"checkpoints/{CHECKPOINT}"
    clap_tokenizer: str = f"checkpoints/{TOKENIZER}"

    def __post_init__(self) -> None:
        if self.norm_type not in ("groupnorm", "layernorm"):
            raise ConfigError(
                f"norm_type: expected groupnorm or layernorm, found {self.norm_type!r}"
            )


def _from_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Published names to ours; the tensors are the same objects."""
    return _renamed(weights, PUBLISHED_NETWORK, OUR_NETWORK, _MODULATION, _OUR_MODULATION)


def to_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Our names to the published ones; the tensors are the same objects."""
    return _renamed(weights, OUR_NETWORK, PUBLISHED_NETWORK, _OUR_MODULATION, _MODULATION)


def _renamed(
    weights: Mapping[str, Tensor], start: str, new_start: str, part: str, new_part: str
) -> StateDict:
    return {
        re.sub(f"^{re.escape(start)}", new_start, key).replace(part, new_part): value
        for key, value in old_weight_norm(weights).items()
    }


def _oobleck_sizes(weights: Mapping[str, Tensor], part: str) -> dict[str, Any]:
    """The sizes of SAT's Oobleck `encoder` or `decoder` from an autoencoder's tensors."""
    encodes = part == "encoder"
    stage, snake = ("4", "3") if encodes else ("1", "0")  # layers of a stage
    stages = count_numbers(weights, rf"{part}\.layers\.(\d+)\.layers\.{stage}\.weight_v")
    shapes = [
        weights[f"{part}.layers.{i + 1}.layers.{stage}.weight_v"].shape for i in range(stages)
    ]
    first, last = (weights[f"{part}.layers.{i}.weight_v"].shape for i in (0, stages + 2))
    channels, io_channels = (first[0], first[1]) if encodes else (last[1], last[0])
    shapes = shapes if encodes else shapes[::-1]
    return {
        "in_channels" if encodes else "out_channels": io_channels,
        "channels": channels,
        "c_mults": [shape[0] // channels for shape in shapes],
        "strides": [shape[2] // 2 for shape in shapes],  # a kernel is two strides long
        "latent_dim": last[0] if encodes else first[1],
        "use_snake": f"{part}.layers.1.layers.{snake}.alpha" in weights,
    }


def model_config(weights: Mapping[str, Tensor], unseen: Unseen) -> dict[str, Any]:
    """The config of a three-track model, its tensors under our names.

    Without an autoencoder among them it has no pretransform, and its windows are frames.
    """
    network: dict[str, Any] = {**_sizes(network_sizes, weights), "norm_type": unseen.norm_type}
    network["num_heads"] = network["embed_dim"] // _HEAD_WIDTH
    config = read_json(shipped_file("model_configs/mge_dit_16k.json"))
    model = config["model"]
    model["io_channels"] = network["io_channels"]
    model["diffusion"]["config"] = network
    model["conditioning"] = _conditioning(network["global_cond_dim"], unseen)
    config |= {"sample_rate": unseen.sample_rate, "sample_size": unseen.frames}
    autoencoder = autoencoder_weights(weights)
    if autoencoder is None:
        del model["pretransform"]
    else:
        section = _autoencoder(autoencoder, unseen)
        model["pretransform"]["config"] = section
        config["sample_size"] *= section["downsampling_ratio"]
        config["audio_channels"] = section["io_channels"]
    return config


def _autoencoder_config(weights: Mapping[str, Tensor], unseen: Unseen) -> dict[str, Any]:
    """The config of an autoencoder alone, its tensors without prefix."""
    config = read_json(shipped_file("model_configs/mge_vae_16k.json"))
    section = _autoencoder(weights, unseen)
    config["model"] |= section
    config |= {"sample_rate": unseen.sample_rate, "audio_channels": section["io_channels"]}
    config["sample_size"] = _AUTOENCODER_FRAMES * section["downsampling_ratio"]
    return config


def _check_fit(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The config's model without memory; a tensor too many, too few or of another shape raises."""
    try:
        with torch.device("meta"):
            is_autoencoder = config["model_type"] == "autoencoder"
            model = (create_autoencoder_from_config if is_autoencoder else create_mge_model)(config)
    except ConfigError as error:
        raise CheckpointError(f"no model has such sizes: {error}") from error
    if problems := misfits(model.state_dict(), weights):
        raise CheckpointError(f"incomplete or another network: {'; '.join(problems)}")
    return model


def _conditioning(width: int, unseen: Unseen) -> dict[str, Any]:
    clap = {"ckpt_path": unseen.clap_ckpt, "tokenizer_path": unseen.clap_tokenizer}
    entry = {"id": "prompt", "type": "mge_clap", "config": clap}
    if width != WIDTH:
        entry |= {"type": "mge_hashed_words", "config": {}}
    return {"configs": [entry], "cond_dim": width}


def _autoencoder(weights: Mapping[str, Tensor], unseen: Unseen) -> dict[str, Any]:
    """SAT's section of an Oobleck autoencoder of these tensors."""
    if "encoder.layers.0.weight" in weights:
        raise CheckpointError(
            "an autoencoder without weight norm, which was removed; expected one as it was trained"
        )
    encoder, decoder = (
        _sizes(partial(_oobleck_sizes, part=part), weights) for part in ("encoder", "decoder")
    )
    latent_dim, io_channels = decoder["latent_dim"], encoder["in_channels"]
    if io_channels > _MOST_AUDIO_CHANNELS:
        raise CheckpointError(
            f"an autoencoder of {io_channels} channels, patches of samples; no tensor "
            "shows how they are made, so its own config is needed"
        )
    section = {
        "encoder": {"type": "oobleck", "config": encoder},
        "decoder": {"type": "oobleck", "config": decoder | {"final_tanh": unseen.final_tanh}},
        "latent_dim": latent_dim,
        "downsampling_ratio": prod(encoder["strides"]),
        "io_channels": io_channels,
    }
    if encoder["latent_dim"] == 2 * latent_dim:  # mean and deviation
        section["bottleneck"] = {"type": "vae"}
    return section


def _sizes(read: Callable[[Mapping[str, Tensor]], _Sizes], weights: Mapping[str, Tensor]) -> _Sizes:
    """The sizes that `read` takes from the tensors; missing tensors and other axes raise."""
    try:
        return read(weights)
    except KeyError as error:
        raise CheckpointError(f"incomplete or another network, no {error.args[0]}") from error
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"tensors of another network ({error})") from error


@dataclass(frozen=True)
class _Imported:
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
            more = ", ..." if len(self.left_out) > _SHOWN else ""
            named = ", ".join(self.left_out[:_SHOWN])
            lines.append(f"left out: {len(self.left_out)} other tensors ({named}{more})")
        return lines


def import_checkpoint(
    path: Path, unseen: Unseen | None = None, autoencoder_only: bool = False
) -> _Imported:
    """Read a published three-track model, or an autoencoder alone; anything else raises.

    `autoencoder_only` takes the autoencoder out of a whole model, published or of this plugin.
    """
    unseen, found = unseen or Unseen(), read_checkpoint(path)
    kind = kind_of_file(path, found)
    with _naming(path):
        if kind is checkpoints.PUBLISHED and not autoencoder_only:
            return _import_model(found, unseen)
        whole = (checkpoints.PUBLISHED, checkpoints.OURS) if autoencoder_only else ()
        if kind in (*_AUTOENCODER_KINDS, *whole):
            return _import_autoencoder(found, unseen)
        raise CheckpointError(_not_importable(kind, found))


def _not_importable(kind: Kind | None, found: Mapping[str, Tensor]) -> str:
    if kind is checkpoints.OURS:
        return f"{kind.name} already; --to-official makes it a published one"
    if kind is not None:
        return f"{kind.name}, expected the published three-track model; {kind.advice}"
    return (
        "neither the published three-track model nor an autoencoder, found tensors "
        f"{', '.join(sorted(found)[:_SHOWN])}"
    )


def _import_model(found: Mapping[str, Tensor], unseen: Unseen) -> _Imported:
    named = _from_official(found)
    weights = {key: value for key, value in named.items() if key.startswith(_PARTS)}
    config = model_config(weights, unseen)
    model: Any = _check_fit(config, weights)
    parts = {"network": model.model, "autoencoder": model.pretransform}
    left_out = sorted(named.keys() - weights.keys())
    return _Imported(checkpoints.PUBLISHED.name, weights, config, left_out, _parameters(parts))


def _import_autoencoder(found: Mapping[str, Tensor], unseen: Unseen) -> _Imported:
    weights = _whole_autoencoder(found)
    config = _autoencoder_config(weights, unseen)
    model = _check_fit(config, weights)
    taken = {id(value) for value in weights.values()}
    left_out = sorted(key for key, value in found.items() if id(value) not in taken)
    return _Imported(
        "an autoencoder", weights, config, left_out, _parameters({"autoencoder": model})
    )


def _whole_autoencoder(found: Mapping[str, Tensor]) -> StateDict:
    weights = autoencoder_weights(found)
    if weights is None:
        raise CheckpointError("half an autoencoder: expected an encoder and a decoder")
    return weights


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
    kind = kind_of_file(path, found)
    with _naming(path):
        if kind is checkpoints.OURS:
            weights = {key: value for key, value in found.items() if key.startswith(_PARTS)}
            named = to_official(weights)
        elif kind in _AUTOENCODER_KINDS:
            named = _whole_autoencoder(found)
        else:
            what = kind.name if kind else f"found tensors {', '.join(sorted(found)[:_SHOWN])}"
            raise CheckpointError(f"not a model of this plugin, but {what}")
    with write_tensors(out) as partial:
        torch.save({"state_dict": separate(named)}, partial)
    return len(named)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of a checkpoint's error with its file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
