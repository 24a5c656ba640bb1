"""Audio embeddings of every sum of a song on a grid of seconds."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.song import GridInfo
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.models.conditioning import TrackConditioner, create_conditioner

BATCH = 32  # windows embedded at a time
UNHEARD = ("cache_dir",)  # options of a conditioner that do not change an embedding


@dataclass(frozen=True)
class Grid:
    """An embedding every `every` seconds, of the `samples` that follow."""

    conditioner: TrackConditioner
    fingerprint: str
    every: float
    samples: int  # of a window, at `sample_rate`
    sample_rate: int  # Hz

    @property
    def info(self) -> GridInfo:
        """What a store says of it."""
        seconds, width = self.samples / self.sample_rate, self.conditioner.output_dim
        return GridInfo(self.fingerprint, seconds, self.every, width)

    def starts(self, samples: int) -> list[int]:
        """Where the windows of a song of that length start; one that is too short has one."""
        last = max(0, samples - self.samples)
        count = int(last / self.sample_rate / self.every) + 1
        return [round(i * self.every * self.sample_rate) for i in range(count)]

    def embed(self, waveforms: Tensor) -> Tensor:
        """(b, channel, sample) to (b, width) float32 on the CPU."""
        parts = [self._embed(batch) for batch in waveforms.split(BATCH)]
        return torch.cat(parts).float().cpu()

    def _embed(self, waveforms: Tensor) -> Tensor:
        examples = [(waveform, self.sample_rate) for waveform in waveforms]
        return self.conditioner.embedder.embed_audio(examples)


def create_grid(config: Mapping[str, Any], every: float) -> Grid | None:
    """From `model.conditioning` of a model config; None if it has no conditioner that hears.

    A window is as long as what the model is trained on. Two that hear raise ConfigError.
    """
    section = config["model"].get("conditioning")
    if section is None:
        return None
    conditioners = create_conditioner(section).conditioners
    hearing = {key: c for key, c in conditioners.items() if getattr(c, "hears", False)}
    if len(hearing) > 1:
        raise ConfigError(
            f"model.conditioning: latents keep the embeddings of one conditioner that hears, found "
            f"{sorted(hearing)}"
        )
    if not hearing:
        return None
    ((key, conditioner),) = hearing.items()
    entry = next(entry for entry in section["configs"] if entry["id"] == key)
    rate = config["sample_rate"]
    return Grid(conditioner, fingerprint(entry), every, config["sample_size"], rate)


def fingerprint(entry: Mapping[str, Any]) -> str:
    """The same for the same embeddings: of a conditioner's options, files by what they hold."""
    options = {k: v for k, v in entry.get("config", {}).items() if k not in UNHEARD}
    told = [entry["type"], {name: _told(value) for name, value in sorted(options.items())}]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _told(value: Any) -> Any:
    path = Path(value) if isinstance(value, str) else None
    if path is not None and path.is_file():
        return checkpoint_fingerprint(path)
    if path is not None and path.is_dir():
        return list(_folder_hashes(path))
    return value


def _folder_hashes(folder: Path) -> Iterator[list[str]]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield [path.name, checkpoint_fingerprint(path)]
