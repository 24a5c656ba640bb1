"""A request on its way from what is given to what was made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mge_plugin.inference.tasks import Request
from mge_plugin.prompts import Prompt


@dataclass
class Song:
    """What is given, at the model's rate, and what was made so far."""

    request: Request
    samples: int  # at the model's rate
    seed: int
    sum: np.ndarray | None = None  # (channels, samples), given and made together
    given: Tensor | None = None  # latents (c, n)
    sounding: Sequence[bool] | None = None  # which windows are denoised
    made: list["Made"] = field(default_factory=list)


@dataclass
class Made:
    """The prompted track of one prompt, the best of its candidates."""

    prompt: Prompt
    latents: Tensor  # (k, c, n) of all tracks
    audio: np.ndarray  # (channels, samples) of the prompted track at the model's rate
    info: dict[str, Any] = field(default_factory=dict)
