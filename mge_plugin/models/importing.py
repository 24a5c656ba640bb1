"""The published checkpoint in and out (`mge import`): weights under our names and their SAT config.

Tensors stay where the file maps them into memory until they are written: a model of 4 GB needs no
4 GB of memory.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mge_plugin.config import read_json
from mge_plugin.files import shipped_file, written_whole
from mge_plugin.models import official
from mge_plugin.models.checkpoints import CheckpointError, StateDict, read_weights, unwrap
from mge_plugin.models.clap.config import CHECKPOINT, TOKENIZER

CLAP_WIDTH = 512
AUTOENCODER_NAMES = ("encoder.", "decoder.")
AUTOENCODER_PREFIXES = (official.AUTOENCODER, "autoencoder_ema.ema_model.", "autoencoder.", "")


@dataclass(frozen=True)
class Unseen:
    """What no tensor shows of a published model; the defaults are the paper's authors'."""

    norm_type: str = "groupnorm"
    sample_rate: int = 16000  # Hz
    frames: int = 100  # latent frames of a window
    final_tanh: bool = False  # of the autoencoder's decoder
    clap_ckpt: str = f"checkpoints/{CHECKPOINT}"
    clap_tokenizer: str = f"checkpoints/{TOKENIZER}"


@dataclass(frozen=True)
class Imported:
    """Weights under our names, the SAT model config that they fit, and what was not taken."""

    weights: StateDict
    config: dict[str, Any]
    left_out: list[str]

    def summary(self) -> list[str]:
        """Lines for a person: what it is, its sizes, its window."""
        config = self.config
        sizes = {"network": official.OUR_NETWORK, "autoencoder": official.AUTOENCODER}
        if config["model_type"] == "autoencoder":
            sizes = {"autoencoder": ""}
        counts = {
            name: sum(t.numel() for key, t in self.weights.items() if key.startswith(start))
            for name, start in sizes.items()
        }
        lines = [f"{name}: {count:,} numbers" for name, count in counts.items() if count]
        seconds = config["sample_size"] / config["sample_rate"]
        lines.append(f"window: {config['sample_size']} samples, {seconds:.2f} s")
        if self.left_out:
            lines.append(f"left out, no weights: {', '.join(self.left_out[:5])}")
        return lines


def import_checkpoint(path: Path, unseen: Unseen | None = None) -> Imported:
    """Read a published three-track model, or an autoencoder alone; anything else raises."""
    unseen = unseen or Unseen()
    found = read_weights(path)
    if official.is_official(found):
        return _import_model(path, found, unseen)
    if official.is_ours(unwrap(found)):
        raise CheckpointError(
            f"{path}: is this plugin's model already; with --to-official it becomes a published one"
        )
    autoencoder = autoencoder_weights(found)
    if autoencoder is None:
        raise CheckpointError(
            f"{path}: neither the published three-track model (names starting with "
            f"{official.NETWORK}) nor an autoencoder, found {', '.join(sorted(found)[:3])}"
        )
    config = read_json(shipped_file("model_configs/mge_vae_16k.json"))
    config["model"] |= _autoencoder_config(path, autoencoder, unseen)
    config |= {"sample_rate": unseen.sample_rate, "audio_channels": config["model"]["io_channels"]}
    config["sample_size"] = 16 * config["model"]["downsampling_ratio"]
    return Imported(autoencoder, config, sorted(set(found) - _taken(found)))


def autoencoder_weights(found: Mapping[str, Tensor]) -> StateDict | None:
    """An autoencoder's tensors without prefix, the averaged ones of a training; None if not one."""
    for prefix in AUTOENCODER_PREFIXES:
        bare = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        parts = {k: v for k, v in bare.items() if k.startswith(AUTOENCODER_NAMES)}
        if all(any(k.startswith(name) for k in parts) for name in AUTOENCODER_NAMES):
            bottleneck = {k: v for k, v in bare.items() if k.startswith("bottleneck.")}
            return official.old_weight_norm(parts | bottleneck)
    return None


def _taken(found: Mapping[str, Tensor]) -> set[str]:
    names = (*AUTOENCODER_NAMES, "bottleneck.")
    starts = tuple(prefix + name for prefix in AUTOENCODER_PREFIXES for name in names)
    return {key for key in found if key.startswith(starts)}


def _import_model(path: Path, found: Mapping[str, Tensor], unseen: Unseen) -> Imported:
    starts = (official.NETWORK, official.AUTOENCODER)
    left_out = sorted(key for key in found if not key.startswith(starts))
    weights = official.from_official({k: v for k, v in found.items() if k.startswith(starts)})
    try:
        network = official.network_sizes(weights) | {"norm_type": unseen.norm_type}
    except KeyError as error:
        raise CheckpointError(f"{path}: incomplete, it has no {error.args[0]}") from error
    config = read_json(shipped_file("model_configs/mge_dit_16k.json"))
    config["model"]["io_channels"] = network["io_channels"]
    config["model"]["diffusion"]["config"] = network
    config["model"]["conditioning"] = _conditioning(network["global_cond_dim"], unseen)
    config["sample_rate"] = unseen.sample_rate
    autoencoder = autoencoder_weights(weights)
    if autoencoder is None:
        del config["model"]["pretransform"]
        config["sample_size"] = unseen.frames
    else:
        section = _autoencoder_config(path, autoencoder, unseen)
        config["model"]["pretransform"]["config"] = section
        config["sample_size"] = unseen.frames * section["downsampling_ratio"]
        config["audio_channels"] = section["io_channels"]
    return Imported(weights, config, left_out)


def _conditioning(width: int, unseen: Unseen) -> dict[str, Any]:
    clap = {"ckpt_path": unseen.clap_ckpt, "tokenizer_path": unseen.clap_tokenizer}
    entry = {"id": "prompt", "type": "mge_clap", "config": clap}
    if width != CLAP_WIDTH:  # no CLAP has that width
        entry |= {"type": "mge_hashed_words", "config": {}}
    return {"configs": [entry], "cond_dim": width}


def _autoencoder_config(path: Path, weights: StateDict, unseen: Unseen) -> dict[str, Any]:
    """SAT's section of an Oobleck autoencoder of these tensors."""
    try:
        encoder = asdict(official.encoder_sizes(weights))
        decoder = asdict(official.decoder_sizes(weights))
    except KeyError as error:
        raise CheckpointError(
            f"{path}: not an Oobleck autoencoder, it has no {error.args[0]}"
        ) from error
    latent_dim, io_channels = decoder["latent_dim"], encoder["io_channels"]
    encoder["in_channels"] = encoder.pop("io_channels")
    decoder["out_channels"] = decoder.pop("io_channels")
    section = {
        "encoder": {"type": "oobleck", "config": encoder},
        "decoder": {"type": "oobleck", "config": decoder | {"final_tanh": unseen.final_tanh}},
        "latent_dim": latent_dim,
        "downsampling_ratio": prod(encoder["strides"]),
        "io_channels": io_channels,
    }
    if encoder["latent_dim"] == 2 * latent_dim:  # mean and deviation
        section["bottleneck"] = {"type": "vae"}
    return copy.deepcopy(section)


def export_official(path: Path, out: Path) -> int:
    """Write our model under the published names, as the published file is; returns its tensors."""
    weights = unwrap(read_weights(path))
    if not official.is_ours(weights):
        raise CheckpointError(
            f"{path}: not a model of this plugin, found {', '.join(sorted(weights)[:3])}"
        )
    starts = (official.OUR_NETWORK, official.AUTOENCODER)
    named = official.to_official({k: v for k, v in weights.items() if k.startswith(starts)})
    with written_whole(out) as partial:
        torch.save({"state_dict": named}, partial)
    return len(named)


def write_weights(weights: Mapping[str, Tensor], out: Path) -> Path:
    """A safetensors file, readable by whom the umask lets; tensors that share memory are copied."""
    with written_whole(out) as partial:
        save_file(_separate(weights), partial, metadata={"format": "pt"})
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
    return out


def _separate(weights: Mapping[str, Tensor]) -> StateDict:
    """Each tensor in one piece of memory of its own, as safetensors needs it."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in weights.items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        separate[key] = tensor.contiguous().clone() if shared else tensor.contiguous()
    return separate
