"""What a task made, and how, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mge_plugin.data.audio import rms_db
from mge_plugin.prompts import Prompt


@dataclass(frozen=True)
class Result:
    """Audio (channels, samples) by name, the tracks' latents (c, n), and how they were made.

    `info` is plain data: task, seed, sampling, and of every track of `audio` its prompt, level and
    scores under `tracks`.
    """

    audio: dict[str, np.ndarray]
    sample_rate: int
    info: dict[str, Any] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)


def levels(audio: np.ndarray) -> dict[str, float | None]:
    """RMS and peak in dBFS; JSON has no -inf: silence is null."""
    peak = float(np.abs(audio).max()) if audio.size else 0.0
    return {"rms_db": _rounded(rms_db(audio)), "peak_db": _rounded(20 * np.log10(peak or 1e-300))}


def plain(prompt: Prompt | Any) -> Any:
    """A prompt as plain data: an audio example by its length."""
    if isinstance(prompt, Mapping):
        return {name: plain(value) for name, value in prompt.items()}
    if isinstance(prompt, Tensor):
        return f"audio, {prompt.shape[-1]} samples"
    return prompt


def _rounded(level: float) -> float | None:
    return round(float(level), 2) if level > -1000 else None
