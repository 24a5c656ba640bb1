"""A small published file: the golden network and the golden autoencoder."""

from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "golden"
RATIO = 32  # samples a latent frame
PREFIX = "pretransform.model."


def golden_weights(name):
    """Tensors of a golden file, without its inputs and outputs."""
    tensors = load_file(GOLDEN / f"official_{name}_tiny.safetensors")
    return {key: value for key, value in tensors.items() if not key.startswith("io.")}


def network_weights():
    return golden_weights("dit_groupnorm")


def autoencoder_weights(prefix=""):
    weights = golden_weights("ae")
    return {prefix + key.removeprefix(PREFIX): value for key, value in weights.items()}


def whole_weights():
    return network_weights() | autoencoder_weights(PREFIX)


def saved(path, weights, **beside):
    """torch.save's file of a state_dict."""
    torch.save({"state_dict": weights} | beside, path)
    return path


def under(prefix, weights):
    """The tensors with a prefix before every name."""
    return {prefix + key: value for key, value in weights.items()}
