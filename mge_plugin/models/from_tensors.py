"""The SAT model config that tensors fit, their sizes read from them, and the proof that they do."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mge_plugin.config import ConfigError, read_json
from mge_plugin.files import shipped_file
from mge_plugin.models import official
from mge_plugin.models.checkpoints import CheckpointError, StateDict, misfits
from mge_plugin.models.clap.config import CHECKPOINT, TOKENIZER, WIDTH

# What imports SAT is imported where a model is built: a file that is no model is told sooner.

AUTOENCODER_NAMES = ("encoder.", "decoder.")
# Where an autoencoder's names are: in a whole model, in SAT's training of one (the averaged weights
# first), alone.
AUTOENCODER_PREFIXES = (official.AUTOENCODER, "autoencoder_ema.ema_model.", "autoencoder.", "")
AUTOENCODER_FRAMES = 16  # of a window of an autoencoder alone, as in mge_vae_16k.json
MOST_AUDIO_CHANNELS = 8  # with more, the autoencoder is one of patches of samples


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
    for prefix in AUTOENCODER_PREFIXES:
        yield {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def autoencoder_weights(found: Mapping[str, Tensor]) -> StateDict | None:
    """An autoencoder's tensors without prefix, the averaged ones of a training; None if not one."""
    for bare in by_prefix(found):
        parts = {k: v for k, v in bare.items() if k.startswith(AUTOENCODER_NAMES)}
        if all(any(k.startswith(name) for k in parts) for name in AUTOENCODER_NAMES):
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
    config["sample_size"] = AUTOENCODER_FRAMES * section["downsampling_ratio"]
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
    if io_channels > MOST_AUDIO_CHANNELS:
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
