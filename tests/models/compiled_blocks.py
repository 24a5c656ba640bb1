"""Run by test_compile.py in a process of its own: output and gradients of a small network."""

import functools
import sys

import torch
from torch._dynamo.utils import counters

# Traced and differentiated by torch.compile, then run without minutes of building C++; before SAT
# is imported, which compiles as it defines its classes.
torch.compile = functools.partial(torch.compile, backend="aot_eager")

from mge_plugin.models.dit import (  # noqa: E402
    DiTConfig,
    MGEDiT,
)


def main(file: str) -> None:
    """Save tensors by name, and how many frames were compiled and how often a graph broke."""
    torch.manual_seed(0)
    network = MGEDiT(DiTConfig(24, 96, 2, 3, 16, use_checkpointing=False))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    results = {}
    for frames in (20, 12):
        x, t = torch.randn(2, 24, frames), torch.rand(2, 3)
        v = network(x, t, network.modulate(torch.randn(2, 3, 16)))
        network.zero_grad()
        v.square().mean().backward()
        results[f"v{frames}"] = v.detach()
        for name, parameter in network.named_parameters():
            results[f"{name}{frames}"] = parameter.grad.clone()
    results["frames"] = counters["frames"]["ok"]
    results["graph_breaks"] = sum(counters["graph_break"].values())
    torch.save(results, file)


main(*sys.argv[1:])
