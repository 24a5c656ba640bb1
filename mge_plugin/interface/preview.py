"""What a run looks like on its way: the prompted track as the model sees it after some steps."""

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.tasks import TASKS, Request
from mge_plugin.interface import pictures

SECONDS = 60.0  # of a song that are shown at most


class Preview:
    """A callback that keeps a spectrogram of every `every`th step; 0 is none."""

    def __init__(self, pipeline: Pipeline, request: Request, every: int) -> None:
        self.pipeline, self.every = pipeline, every
        self.track = TASKS[request.task].prompted
        self.seconds = min(SECONDS, length(request))
        self.pictures: list[tuple[Image.Image, str]] = []

    def __call__(self, step: Mapping[str, Any]) -> None:
        """Keep the picture of a step if it is its turn."""
        if self.every and step["i"] % self.every == 0:
            caption = f"step {step['i'] + 1}, t = {float(step['t']):.3f}"
            self.pictures.append((self.picture(step), caption))

    def picture(self, step: Mapping[str, Any]) -> Image.Image:
        """The first song's prompted track in a step's `denoised`."""
        engine, rate = self.pipeline.engine, self.pipeline.sample_rate
        latents = step["denoised"][0, self.track]
        samples = min(latents.shape[-1] * engine.ratio, round(self.seconds * rate))
        audio = engine.decode(latents[:, : engine.frames_of(samples)], samples)
        return pictures.spectrogram(audio, rate)


def length(request: Request) -> float:
    """Seconds that the result will have; infinite if only the model knows."""
    if request.like is not None:
        return request.like.shape[1] / request.sample_rate
    return request.seconds or math.inf
