"""Training steps by part, beside stable-audio-tools' own DiT of the same width, depth and length.

python benchmarks/training.py                     golden and small; on a GPU shipped, 300m and full
python benchmarks/training.py --sizes small full --no-compile

One row per size, with and without torch.compile on a GPU (bf16 autocast there). Medians of steps on
synthetic data, no network needed:

    data       a batch of audio from pinned memory to the device
    encode     audio to latents, three tracks per item; a training on pre-encoded latents has none
    draws      levels, noise and dropout of every item, drawn on the CPU and copied
    forward, backward, optimizer (AdamW)
    step       draws + forward + backward + optimizer
    SAT        forward + backward + optimizer of SAT's DiT with one frame more in place of our token

MFU is the model FLOPs of forward and backward (three times the forward's, counted by torch) per
second of a step, relative to the GPU's dense bf16 peak. Memory is the peak of a step.
"""

import argparse
import gc
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from stable_audio_tools.models.dit import DiffusionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mge_plugin.models.autoencoder import encode_tracks
from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.mge import create_mge_model
from mge_plugin.models.noise import per_track
from mge_plugin.tracks import NUM_TRACKS, pack, unpack
from mge_plugin.training.conditioning import drawn_as_kept
from mge_plugin.training.config import TrainingConfig
from mge_plugin.training.objective import track_losses
from mge_plugin.training.randomness import ItemRandomness, to_device
from mge_plugin.training.timesteps import draw_timesteps

CONFIGS = Path(__file__).parents[1] / "model_configs"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "L40S": 362, "4090": 165}  # dense bf16


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
        config["model"]["diffusion"]["config"] |= network
        config["model"]["conditioning"]["configs"] = [
            {"id": "prompt", "type": "mge_hashed_words", "config": {}}
        ]
        config["sample_size"] = self.frames * ratio
        return config

    @property
    def network_config(self) -> DiTConfig:
        """The network's section."""
        return DiTConfig(**self.model_config()["model"]["diffusion"]["config"])


SIZES = {
    "golden": Size("mge_dit_tiny.json", 96, 2, 3, frames=20, batch=2, steps=20),
    "small": Size("mge_dit_tiny.json", 384, 4, 12, frames=80, batch=4, steps=8),
    "medium": Size("mge_dit_tiny.json", 768, 10, 24, frames=80, batch=8, steps=4),
    "shipped": Size("mge_dit_minislakh.json", 336, 5, 6, frames=80, batch=64, steps=10),
    "300m": Size("mge_dit_16k_300m.json", 1152, 12, 36, frames=80, batch=64, steps=10),
    "full": Size("mge_dit_16k.json", 1536, 24, 48, frames=80, batch=64, steps=10),
}


def sats(config: DiTConfig) -> nn.Module:
    """SAT's network, its embedding as wide as the three tracks' together, in adaLN."""
    return DiffusionTransformer(
        io_channels=config.io_channels,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        global_cond_dim=NUM_TRACKS * config.global_cond_dim,
        global_cond_type="adaLN",
    )


def now() -> float:
    """Seconds, when the device has finished all work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Seconds of the parts of a step, by name."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}

    def measure(self, name: str, action: Callable[[], Any]) -> Any:
        """The action's result."""
        start = now()
        result = action()
        self.parts.setdefault(name, []).append(now() - start)
        return result

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part, without the first two steps."""
        return {name: 1e3 * statistics.median(values[2:]) for name, values in self.parts.items()}


class Trained:
    """A network with AdamW on the device; layers that start as zeros get noise."""

    def __init__(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        self.network = network.to(DEVICE).train()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=DEVICE == "cuda")

    def step(self, clock: Clock, forward: Callable[[], Tensor]) -> None:
        """Forward, backward, optimizer."""

        def autocast() -> Tensor:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                return forward()

        loss = clock.measure("forward", autocast)
        clock.measure("backward", loss.backward)
        clock.measure("optimizer", self.optimizer.step)
        self.optimizer.zero_grad(set_to_none=True)


def measure_ours(size: Size, compiled: bool) -> dict[str, float]:
    """Milliseconds of each part of our step, its memory, parameters and FLOPs."""
    model, clock = create_mge_model(size.model_config()), Clock()
    trained = Trained(model.model.model)
    network: MGEDiT = trained.network
    flops = count_flops(network, size)
    if compiled:
        network.compile(dynamic=False)
    samples = size.frames * model.pretransform.downsampling_ratio
    waveforms = torch.randn(size.batch, NUM_TRACKS * model.pretransform.io_channels, samples)
    waveforms = waveforms.pin_memory() if DEVICE == "cuda" else waveforms
    model.pretransform.to(DEVICE)
    embeddings = torch.randn(size.batch, NUM_TRACKS, size.network_config.global_cond_dim)
    embeddings = embeddings.to(DEVICE)
    latents = torch.randn(size.batch, NUM_TRACKS, model.pretransform.encoded_channels, size.frames)
    latents, config = latents.to(DEVICE), TrainingConfig()
    for number in range(size.steps + 2):
        audio = clock.measure("data", lambda: waveforms.to(DEVICE, non_blocking=True))
        if number < 4:  # the slowest part by far
            clock.measure("encode", lambda audio=audio: encode(model.pretransform, audio))
        items = ItemRandomness(0, range(number * size.batch, (number + 1) * size.batch))
        levels, noise, kept = clock.measure(
            "draws",
            lambda items=items: to_device(
                torch.device(DEVICE),
                draw_timesteps(config.timesteps, items, size.batch),
                items.normal("noise", latents.shape[1:]),
                drawn_as_kept(0.1, items),
            ),
        )

        def forward(levels: Tensor = levels, noise: Tensor = noise, kept: Tensor = kept) -> Tensor:
            x = model.model.objective.add_noise(latents, noise, per_track(levels))
            target = model.model.objective.target(latents, noise, per_track(levels))
            modulations = network.modulate(embeddings * kept[:, :, None])
            v = unpack(network(pack(x), levels, modulations))
            return track_losses(v.float(), target).mean()

        if number == 2 and DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trained.step(clock, forward)
    return clock.medians() | {"bytes": peak(), "parameters": parameters(network), "flops": flops}


@torch.no_grad()
def encode(pretransform: Any, audio: Tensor) -> Tensor:
    """Latents of all tracks of a batch (b, k*channels, samples), as training encodes them."""
    return encode_tracks(pretransform, audio.unflatten(1, (NUM_TRACKS, -1)))


def measure_sats(size: Size, compiled: bool) -> dict[str, float]:
    """The same parts of a step of SAT's network."""
    config, clock = size.network_config, Clock()
    trained = Trained(sats(config))
    if compiled:
        trained.network.compile(dynamic=False)
    x = torch.randn(size.batch, config.io_channels, size.frames + 1, device=DEVICE)
    t = torch.rand(size.batch, device=DEVICE)
    embedding = torch.randn(size.batch, NUM_TRACKS * config.global_cond_dim, device=DEVICE)
    for number in range(size.steps + 2):
        if number == 2 and DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trained.step(
            clock,
            lambda: (
                trained.network(x, t, global_embed=embedding, use_checkpointing=False)
                .float()
                .square()
                .mean()
            ),
        )
    return clock.medians() | {"bytes": peak(), "parameters": parameters(trained.network)}


def count_flops(network: MGEDiT, size: Size) -> int:
    """Model FLOPs of forward and backward of a batch."""
    config = size.network_config
    x = torch.randn(1, config.io_channels, size.frames, device=DEVICE)
    embeddings = torch.randn(1, NUM_TRACKS, config.global_cond_dim, device=DEVICE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, torch.rand(1, NUM_TRACKS, device=DEVICE), network.modulate(embeddings))
    return 3 * size.batch * counter.get_total_flops()


def peak() -> int:
    """Bytes on the GPU at most, 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def parameters(network: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in network.parameters())


def utilisation(flops: float, milliseconds: float) -> str:
    """MFU in percent; a dash where the device's peak is not in the table."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peaks = [tflops for part, tflops in PEAK_TFLOPS.items() if part in name]
    return f"{flops / milliseconds * 1e3 / peaks[0] / 1e12:.0%}" if peaks else "-"


PARTS = ("data", "encode", "draws", "forward", "backward", "optimizer")


def rows(names: list[str], compilations: tuple[bool, ...]) -> Iterator[tuple[str, ...]]:
    """A size's figures, with and without compilation."""
    for name in names:
        for compiled in compilations:
            size = SIZES[name]
            ours = measure_ours(size, compiled)
            gc.collect()
            theirs = measure_sats(size, compiled)
            gc.collect()
            step = sum(ours[part] for part in PARTS[2:])
            sat = sum(theirs[part] for part in PARTS[3:])
            network = step - ours["draws"]
            yield (
                f"{name}{', compiled' * compiled}",
                f"{ours['parameters'] / 1e6:.1f}",
                *(f"{ours[part]:.1f}" for part in PARTS),
                f"{step:.1f}",
                f"{sat:.1f}",
                f"{network / sat:.2f}",
                f"{size.batch * (size.frames + 1) / step * 1e3:,.0f}",
                utilisation(ours["flops"], step),
                f"{ours['bytes'] / 2**30:.1f}",
                f"{theirs['bytes'] / 2**30:.1f}",
            )


def main() -> None:
    """Measure the sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = DEVICE == "cuda"
    default = ["shipped", "300m", "full"] if gpu else ["golden", "small"]
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=default)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=gpu)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    columns = ("size", "M parameters", *(f"{part} ms" for part in PARTS), "step ms", "SAT ms")
    columns += ("ratio", "tokens/s", "MFU", "GiB", "SAT GiB")
    device = torch.cuda.get_device_name() if gpu else "one CPU process"
    table = Table(*columns, title=f"a training step, {device}")
    for row in rows(options.sizes, (False, True) if options.compile else (False,)):
        table.add_row(*row)
    Console(width=200).print(table)


if __name__ == "__main__":
    sys.exit(main())
