"""The published checkpoint in and out (`mge import`): weights under our names and their SAT config.

Tensors stay where the file maps them into memory until they are written: a model of 4 GB needs no
4 GB of memory.

The SAT model config that tensors fit, their sizes read from them, and the proof that they do.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from shutil import disk_usage
from stat import S_IMODE
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mge_plugin.config import ConfigError, read_json
from mge_plugin.files import shipped_file, written_whole
from mge_plugin.models import checkpoints as foreign
from mge_plugin.models import checkpoints as official
from mge_plugin.models.checkpoints import CheckpointError, StateDict, misfits, read_checkpoint
from mge_plugin.models.clap import CHECKPOINT, TOKENIZER, WIDTH

# What imports SAT is imported where a model is built: a file that is no model is told sooner.

_AUTOENCODER_NAMES = ("encoder.", "decoder.")
# Where an autoencoder's names are: in a whole model, in SAT's training of one (the averaged weights
# first), alone.
_AUTOENCODER_PREFIXES = (
    official.PUBLISHED_AUTOENCODER,
    "autoencoder_ema.ema_model.",
    "autoencoder.",
    "",
)
_AUTOENCODER_FRAMES = 16  # of a window of an autoencoder alone, as in mge_vae_16k.json
_MOST_AUDIO_CHANNELS = 8  # with more, the autoencoder is one of patches of samples


@dataclass(frozen=True)
class Unseen:
    """What no tensor shows of a published model; the defaults are its authors'."""

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


def by_prefix(found: Mapping[str, Tensor]) -> Iterator[StateDict]:
    """What an autoencoder may be: the tensors under each known prefix, without it."""
    for prefix in _AUTOENCODER_PREFIXES:
        yield {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def autoencoder_weights(found: Mapping[str, Tensor]) -> StateDict | None:
    """An autoencoder's tensors without prefix, the averaged ones of a training; None if not one."""
    for bare in by_prefix(found):
        parts = {k: v for k, v in bare.items() if k.startswith(_AUTOENCODER_NAMES)}
        if all(any(k.startswith(name) for k in parts) for name in _AUTOENCODER_NAMES):
            bottleneck = {k: v for k, v in bare.items() if k.startswith("bottleneck.")}
            return official.old_weight_norm(parts | bottleneck)
    return None


def model_config(weights: Mapping[str, Tensor], unseen: Unseen) -> dict[str, Any]:
    """The config of a three-track model, its tensors under our names.

    Without an autoencoder among them it has no pretransform, and its windows are frames.
    """
    network = _sizes(official.network_sizes, weights) | {"norm_type": unseen.norm_type}
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


def autoencoder_config(weights: Mapping[str, Tensor], unseen: Unseen) -> dict[str, Any]:
    """The config of an autoencoder alone, its tensors without prefix."""
    config = read_json(shipped_file("model_configs/mge_vae_16k.json"))
    section = _autoencoder(weights, unseen)
    config["model"] |= section
    config |= {"sample_rate": unseen.sample_rate, "audio_channels": section["io_channels"]}
    config["sample_size"] = _AUTOENCODER_FRAMES * section["downsampling_ratio"]
    return config


def check_fit(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The config's model without memory; a tensor too many, too few or of another shape raises."""
    from stable_audio_tools.models.autoencoders import create_autoencoder_from_config

    from mge_plugin.models.mge import create_mge_model

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
    encoder = asdict(_sizes(official.encoder_sizes, weights))
    decoder = asdict(_sizes(official.decoder_sizes, weights))
    latent_dim, io_channels = decoder["latent_dim"], encoder["io_channels"]
    if io_channels > _MOST_AUDIO_CHANNELS:
        raise CheckpointError(
            f"an autoencoder of {io_channels} channels, patches of samples; no tensor "
            "shows how they are made, so its own config is needed"
        )
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
    return section


def _sizes(read: Any, weights: Mapping[str, Tensor]) -> Any:
    """What `read` finds in the tensors; one that is not there, or has other axes, raises."""
    try:
        return read(weights)
    except KeyError as error:
        raise CheckpointError(f"incomplete or another network, no {error.args[0]}") from error
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"tensors of another network ({error})") from error


_PARTS = (
    official.OUR_NETWORK,
    official.PUBLISHED_AUTOENCODER,
)  # what a three-track model's names start with
_AUTOENCODER_KINDS = (  # of what an autoencoder can be taken out
    foreign.AUTOENCODER,
    foreign.INNER_AUTOENCODER,
    foreign.AUTOENCODER_TRAINING,
)
_SHOWN = 3  # names of tensors left out


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
    kind = foreign.kind_of_file(path, found)
    with _naming(path):
        if kind is foreign.PUBLISHED and not autoencoder_only:
            return _import_model(found, unseen)
        whole = (foreign.PUBLISHED, foreign.OURS) if autoencoder_only else ()
        if kind in (*_AUTOENCODER_KINDS, *whole):
            return _import_autoencoder(found, unseen)
        raise CheckpointError(_not_importable(kind, found))


def _not_importable(kind: foreign.Kind | None, found: Mapping[str, Tensor]) -> str:
    if kind is foreign.OURS:
        return f"{kind.name} already; --to-official makes it a published one"
    if kind is not None:
        return f"{kind.name}, expected the published three-track model; {kind.advice}"
    return (
        "neither the published three-track model nor an autoencoder, found tensors "
        f"{', '.join(sorted(found)[:_SHOWN])}"
    )


def _import_model(found: Mapping[str, Tensor], unseen: Unseen) -> _Imported:
    named = official.from_official(found)
    weights = {key: value for key, value in named.items() if key.startswith(_PARTS)}
    config = model_config(weights, unseen)
    model = check_fit(config, weights)
    parts = {"network": model.model, "autoencoder": model.pretransform}
    left_out = sorted(named.keys() - weights.keys())
    return _Imported(foreign.PUBLISHED.name, weights, config, left_out, _parameters(parts))


def _import_autoencoder(found: Mapping[str, Tensor], unseen: Unseen) -> _Imported:
    weights = autoencoder_weights(found)
    if weights is None:
        raise CheckpointError("half an autoencoder: expected an encoder and a decoder")
    config = autoencoder_config(weights, unseen)
    model = check_fit(config, weights)
    taken = {id(value) for value in weights.values()}
    left_out = sorted(key for key, value in found.items() if id(value) not in taken)
    return _Imported(
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
            weights = {key: value for key, value in found.items() if key.startswith(_PARTS)}
            named = official.to_official(weights)
        elif kind in _AUTOENCODER_KINDS:
            named = autoencoder_weights(found)
        else:
            what = kind.name if kind else f"found tensors {', '.join(sorted(found)[:_SHOWN])}"
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
