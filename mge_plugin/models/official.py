"""The published implementation's names, and the sizes that its tensors have.

| published | here, and in stable-audio-tools |
|---|---|
| model_dit. | model.model. |
| to_scale_shift_gate.2.weight | to_modulations.2.weight |
| pretransform.model. | pretransform.model. |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]

NETWORK = "model_dit."
OUR_NETWORK = "model.model."
MODULATION, OUR_MODULATION = ".to_scale_shift_gate.", ".to_modulations."
AUTOENCODER = "pretransform.model."
HEAD_WIDTH = 32  # channels of an attention head
# torch 2's names of a weight-normed layer's parameters, and the older ones, which SAT has
_NEW_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}


def is_official(weights: Mapping[str, Any]) -> bool:
    """Whether the names are the published implementation's."""
    return any(key.startswith(NETWORK) for key in weights)


def from_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Published names to ours; the tensors are the same objects."""
    return {
        _replace_start(key, NETWORK, OUR_NETWORK).replace(MODULATION, OUR_MODULATION): value
        for key, value in old_weight_norm(weights).items()
    }


def to_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Our names to the published ones; the tensors are the same objects."""
    return {
        _replace_start(key, OUR_NETWORK, NETWORK).replace(OUR_MODULATION, MODULATION): value
        for key, value in old_weight_norm(weights).items()
    }


def old_weight_norm(weights: Mapping[str, Tensor]) -> StateDict:
    """The names `weight_g` and `weight_v`, which SAT has, of every weight-normed layer."""
    return {_old_name(key): value for key, value in weights.items()}


def weight_norm_as(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> StateDict:
    """The names of weight norm that `expected` has, of every weight-normed layer in it."""
    names = {_old_name(key): key for key in expected}
    return {names.get(key, key): value for key, value in old_weight_norm(weights).items()}


def _old_name(key: str) -> str:
    for new, old in _NEW_NAMES.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


def _replace_start(key: str, start: str, new: str) -> str:
    return new + key.removeprefix(start) if key.startswith(start) else key


def network_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """`model.diffusion.config` of a network's tensors, under our names."""

    def shape(name: str) -> Any:
        return weights[OUR_NETWORK + name].shape

    embed_dim, io_channels = shape("transformer.project_in.weight")
    return {
        "io_channels": io_channels,
        "embed_dim": embed_dim,
        "depth": _count(weights, rf"{re.escape(OUR_NETWORK)}transformer\.layers\.(\d+)\."),
        "num_heads": embed_dim // HEAD_WIDTH,
        "global_cond_dim": shape("to_global_embed.1.weight")[1],
        "timestep_features_dim": 2 * shape("timestep_features.weight")[0],
    }


@dataclass(frozen=True)
class Oobleck:
    """The sizes of one half of SAT's Oobleck autoencoder."""

    io_channels: int  # of the audio
    channels: int
    c_mults: list[int]
    strides: list[int]
    latent_dim: int
    use_snake: bool


def encoder_sizes(weights: Mapping[str, Tensor]) -> Oobleck:
    """From an autoencoder's tensors, names starting with `encoder.layers.`."""
    stages = _count(weights, r"encoder\.layers\.(\d+)\.layers\.4\.weight_v")
    first = weights["encoder.layers.0.weight_v"].shape
    downs = [weights[f"encoder.layers.{i + 1}.layers.4.weight_v"].shape for i in range(stages)]
    channels = first[0]
    return Oobleck(
        io_channels=first[1],
        channels=channels,
        c_mults=[down[0] // channels for down in downs],
        strides=[down[2] // 2 for down in downs],  # a kernel is two strides long
        latent_dim=weights[f"encoder.layers.{stages + 2}.weight_v"].shape[0],
        use_snake="encoder.layers.1.layers.3.alpha" in weights,
    )


def decoder_sizes(weights: Mapping[str, Tensor]) -> Oobleck:
    """From an autoencoder's tensors, names starting with `decoder.layers.`."""
    stages = _count(weights, r"decoder\.layers\.(\d+)\.layers\.1\.weight_v")
    ups = [weights[f"decoder.layers.{i + 1}.layers.1.weight_v"].shape for i in range(stages)]
    last = weights[f"decoder.layers.{stages + 2}.weight_v"].shape
    channels = last[1]
    return Oobleck(
        io_channels=last[0],
        channels=channels,
        c_mults=[up[0] // channels for up in reversed(ups)],
        strides=[up[2] // 2 for up in reversed(ups)],
        latent_dim=weights["decoder.layers.0.weight_v"].shape[1],
        use_snake="decoder.layers.1.layers.0.alpha" in weights,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the names have where the pattern's group is."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})
