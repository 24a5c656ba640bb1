"""A training step against stable-audio-tools' own DiT of the same width, depth, heads and length.

python benchmarks/training.py                     golden and small; on a GPU medium and full too
python benchmarks/training.py --sizes small medium

Forward, backward and AdamW on latents, in turns in one process; on a GPU in bf16 autocast. Both
recompute activations. Both transformers run over the same number of tokens: ours puts one for the
timestep before the frames, SAT's gets one frame more. Layers that start as zeros are filled with
noise, so that all gradients flow. Peak memory is what a process with one network adds. "outside"
is the share of a whole step of the training wrapper that is spent outside of network and
optimizer: encoding, conditioning, noise and loss.
"""

import argparse
import json
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_audio_tools.models.dit import DiffusionTransformer
from torch import Tensor, nn

from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.mge import create_mge_model
from mge_plugin.tracks import NUM_TRACKS
from mge_plugin.training.randomness import ItemRandomness
from mge_plugin.training.timesteps import draw_timesteps
from mge_plugin.training.wrapper import MGETrainingWrapper, create_mge_training_wrapper

CONFIGS = Path(__file__).parents[1] / "model_configs"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Size:
    """A network, and the model config that the rest is taken from."""

    config: str
    embed_dim: int
    depth: int
    num_heads: int
    frames: int
    batch: int
    steps: int  # that are timed

    def model_config(self) -> dict[str, Any]:
        """The model config with this network in it."""
        config = json.loads((CONFIGS / self.config).read_text())
        ratio = config["model"]["pretransform"]["config"]["downsampling_ratio"]
        network = {"embed_dim": self.embed_dim, "depth": self.depth, "num_heads": self.num_heads}
        config["model"]["diffusion"]["config"] |= network | {"use_checkpointing": True}
        config["sample_size"] = self.frames * ratio
        return config


SIZES = {
    "golden": Size("mge_dit_tiny.json", 96, 2, 3, frames=20, batch=2, steps=60),
    "small": Size("mge_dit_tiny.json", 384, 4, 12, frames=80, batch=4, steps=12),
    "medium": Size("mge_dit_tiny.json", 768, 10, 24, frames=80, batch=8, steps=12),
    "full": Size("mge_dit_16k.json", 1536, 24, 48, frames=80, batch=8, steps=12),
}


def ours(size: Size) -> tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, ...]]:
    """The three-track network, its call, and the call's arguments."""
    config = DiTConfig(**size.model_config()["model"]["diffusion"]["config"])
    network = MGEDiT(config)
    x = torch.randn(size.batch, config.io_channels, size.frames)
    embeddings = torch.randn(size.batch, NUM_TRACKS, config.global_cond_dim)
    levels = torch.rand(size.batch, NUM_TRACKS)

    def call(x: Tensor, levels: Tensor, embeddings: Tensor) -> Tensor:
        return network(x, levels, network.modulate(embeddings))

    return network, call, (x, levels, embeddings)


def sats(size: Size) -> tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, ...]]:
    """SAT's network, its embedding as wide as the three tracks' together and put in by adaLN."""
    config = DiTConfig(**size.model_config()["model"]["diffusion"]["config"])
    network = DiffusionTransformer(
        io_channels=config.io_channels,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        global_cond_dim=NUM_TRACKS * config.global_cond_dim,
        global_cond_type="adaLN",
    )
    x = torch.randn(size.batch, config.io_channels, size.frames + 1)
    embedding = torch.randn(size.batch, NUM_TRACKS * config.global_cond_dim)

    def call(x: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        return network(x, t, global_embed=embedding, use_checkpointing=config.use_checkpointing)

    return network, call, (x, torch.rand(size.batch), embedding)


NETWORKS = {"ours": ours, "SAT": sats}


class Step:
    """One training step of a network on fixed latents."""

    def __init__(self, name: str, size: Size) -> None:
        network, self.call, arguments = NETWORKS[name](size)
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        network.to(DEVICE).train()
        self.arguments = [argument.to(DEVICE) for argument in arguments]
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def __call__(self) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda"):
            v = self.call(*self.arguments)
        v.float().square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def now() -> float:
    """Seconds, when the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(action: Callable[[], Any]) -> float:
    """What one call takes."""
    start = now()
    action()
    return now() - start


def times(size: Size) -> dict[str, float]:
    """Median seconds of a step of each network, their steps taken in turns."""
    steps = {name: Step(name, size) for name in NETWORKS}
    measured = {name: [] for name in steps}
    for step in (*steps.values(), *steps.values()):
        step()
    for _ in track(range(size.steps), "steps in turns", transient=True):
        for name, step in steps.items():
            measured[name].append(seconds(step))
    return {name: statistics.median(values) for name, values in measured.items()}


def peak_memory(name: str, size: Size) -> tuple[int, int]:
    """Parameters, and bytes that two steps of one network add at most; call in a fresh process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(name, size)
    step()
    step()
    if DEVICE == "cuda":
        return step.parameters, torch.cuda.max_memory_allocated()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return step.parameters, (after - before) * 1024


class NetworkClock:
    """The seconds between the start and the end of the network's forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.start = self.elapsed = 0.0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.start = now()

    def _end(self, *_: Any) -> None:
        self.elapsed = now() - self.start


def share_outside(size: Size) -> float:
    """The share of a step of the training wrapper outside of network and optimizer."""
    config = size.model_config()
    wrapper = create_mge_training_wrapper(config, create_mge_model(config)).to(DEVICE)
    clock = NetworkClock(wrapper.diffusion.model)
    optimizer = torch.optim.AdamW(wrapper.diffusion.model.parameters(), lr=1e-4)
    return statistics.median(_share(wrapper, clock, optimizer, size) for _ in range(5))


def _share(
    wrapper: MGETrainingWrapper, clock: NetworkClock, optimizer: torch.optim.Optimizer, size: Size
) -> float:
    samples = size.frames * wrapper.diffusion.min_input_length
    reals = torch.randn(size.batch, NUM_TRACKS, samples, device=DEVICE)
    metadata = [{"prompt": {"source": "The sound of the bass"}} for _ in range(size.batch)]
    draws = ItemRandomness(0, range(size.batch))
    start = now()
    with torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda"):
        t = draw_timesteps(wrapper.config.timesteps, draws, size.batch)
        latents = wrapper.encode(reals, draws)
        losses = wrapper.diffusion_losses(latents, (reals, metadata), t, draws, dropout=0.1)
        loss = losses.mean()
    forward = now() - start
    learning = seconds(loss.backward) + seconds(optimizer.step)
    optimizer.zero_grad(set_to_none=True)
    return (forward - clock.elapsed) / (forward + learning)


def row(name: str) -> tuple[str, ...]:
    """A size's figures."""
    size = SIZES[name]
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = [pool.apply(peak_memory, (network, size)) for network in NETWORKS]
    taken = times(size)
    return (
        name,
        f"{peaks[0][0] / 1e6:.1f}",
        *(f"{1e3 * taken[network]:.1f}" for network in NETWORKS),
        f"{taken['ours'] / taken['SAT']:.2f}",
        *(f"{peak / 2**20:.0f}" for _, peak in peaks),
        f"{share_outside(size):.0%}",
    )


def main() -> None:
    """Measure the sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = list(SIZES) if DEVICE == "cuda" else ["golden", "small"]
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=default)
    logging.disable(logging.WARNING)
    names = ("size", "M parameters", "ms", "SAT ms", "ratio", "peak MiB", "SAT peak MiB", "outside")
    table = Table(*names, title=f"a training step on {DEVICE}")
    for name in parser.parse_args().sizes:
        table.add_row(*row(name))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
