"""What is filled in on the Stems tab, as a job for the pipeline."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Sampling
from mge_plugin.inference.result import Result
from mge_plugin.inference.tasks import TASKS, Keep, Request
from mge_plugin.interface import files
from mge_plugin.prompts import Prompt

MAX_SOURCES = 8  # rows for them on the page
RANDOM_SEEDS = 2**32
REPLACE = "replace"  # extract, then add: no task of the model's own
NAMES = (*TASKS, REPLACE)
# What the page asks for beside the prompts, and what the given audio is called there.
GIVEN = {name: task.given.label for name, task in TASKS.items() if task.given is not None}
GIVEN[REPLACE] = "mixture"
LENGTH = ("generate", "compose")  # tasks for which a length is asked
HELP = {
    "generate": "Music from a text.",
    "extract": "The sources that the prompts name, and the residual, out of a mixture.",
    "add": "New sources, one after another, that go with a submixture.",
    "accompany": "The rest of the band for a source.",
    "compose": "A song source by source, each fitting those before.",
    REPLACE: "Another instrument for one of a mixture.",
}


@dataclass(frozen=True)
class Job:
    """A run that is ready to be made."""

    requests: tuple[Request, ...]  # one; for "replace" the extraction, which tells the length
    sampling: Sampling
    new_prompt: Prompt = None  # of "replace"

    @property
    def given(self) -> np.ndarray | None:
        """The given audio."""
        return self.requests[0].audio

    def steps(self, pipeline: Pipeline) -> int:
        """How often the callback will be called."""
        once = pipeline.steps(self.requests, self.sampling)
        return once if self.new_prompt is None else 2 * once

    def run(self, pipeline: Pipeline, callback: Callable[[Mapping[str, Any]], None]) -> Result:
        """Make it."""
        if self.new_prompt is None:
            return pipeline.run(self.requests, self.sampling, callback)[0]
        (request,) = self.requests
        return pipeline.replace(
            request.audio,
            request.sample_rate,
            request.prompts[0],
            self.new_prompt,
            self.sampling,
            callback,
            negative=request.negative,
        )


def job(filled: Mapping[str, Any]) -> Job:
    """Read the page's fields, by the names of `stems_tab`; ValueError says what is missing."""
    task = filled["task"]
    given = files.heard(filled["given"], "Given audio") if task in GIVEN else None
    if task in GIVEN and given is None:
        raise ValueError(f"{task}: needs the {GIVEN[task]} as the given audio, found none")
    prompts = _prompts(task, filled)
    new_prompt = None
    if task == REPLACE:
        new_prompt = (filled["new_prompt"] or "").strip()
        if len(prompts) != 1 or not new_prompt:
            raise ValueError("replace: expected one prompt, and one for the new instrument")
    audio, sample_rate = given or (None, None)
    keep, kept_rate = _keep(filled, sample_rate)
    request = Request(
        "extract" if task == REPLACE else task,
        prompts,
        audio,
        sample_rate or kept_rate,
        (filled["seconds"] or None) if task in LENGTH else None,
        negative=(filled["negative"] or "").strip() or None,
        keep=keep,
    )
    return Job((request,), sampling(filled), new_prompt)


def sampling(filled: Mapping[str, Any]) -> Sampling:
    """How to sample; seed -1 is a random one."""
    seed = int(filled["seed"] if filled["seed"] is not None else -1)
    return Sampling(
        steps=int(filled["steps"]),
        cfg_scale=float(filled["cfg_scale"]),
        seed=random.SystemRandom().randrange(RANDOM_SEEDS) if seed == -1 else seed,
        window_batch=int(filled["window_batch"]),
        refine=filled["refine"],
        sampler=filled["sampler"],
        schedule=filled["schedule"],
        eta=float(filled["eta"]),
        resamplings=int(filled["resamplings"]),
        cfg_interval=(float(filled["interval_from"]), float(filled["interval_to"])),
        cfg_rescale=float(filled["cfg_rescale"]),
        apg_scale=float(filled["apg_scale"]),
        long_form=filled["long_form"],
        candidates=int(filled["candidates"]),
        gate=bool(filled["gate"]),
        gate_threshold=float(filled["gate_threshold"]),
    )


def _prompts(task: str, filled: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """A prompt a line where a task takes several, else all lines as one; with the example."""
    lines = [line.strip() for line in (filled["prompts"] or "").splitlines() if line.strip()]
    if task != REPLACE and not TASKS[task].several:
        lines = [" ".join(lines)] if lines else []
    if len(lines) > MAX_SOURCES:
        raise ValueError(f"prompts: expected {MAX_SOURCES} lines at most, found {len(lines)}")
    example = files.heard(filled["example"], "Audio example")
    if example is None:
        return tuple(lines) or ("",)
    if len(lines) > 1:
        raise ValueError(f"an audio example goes with one prompt, found {len(lines)} lines")
    audio, sample_rate = example
    prompt = {"audio": torch.from_numpy(audio), "sample_rate": sample_rate}
    if lines:
        prompt |= {"text": lines[0], "text_weight": float(filled["text_weight"])}
    return (prompt,)


def _keep(filled: Mapping[str, Any], sample_rate: int | None) -> tuple[Keep | None, int | None]:
    """The track of which only some seconds are made anew, and its rate in Hz."""
    current = files.heard(filled["current"], "Current track")
    if current is None:
        return None, None
    if filled["task"] == REPLACE:
        raise ValueError("replace: makes all seconds anew; take the current track away")
    audio, rate = current
    if sample_rate is not None and rate != sample_rate:
        raise ValueError(f"current track: expected {sample_rate} Hz as the audio has, found {rate}")
    redo = (float(filled["redo_from"] or 0.0), float(filled["redo_to"] or 0.0))
    return Keep(audio, (redo,)), rate
