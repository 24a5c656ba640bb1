"""From song files and texts to tracks of audio: the Python API under the CLI and the UI.

audio -> model's rate and channels -> latents -> sampler -> audio -> input's rate
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mge_plugin.check import check_model
from mge_plugin.config import ConfigError, read_json
from mge_plugin.inference.ddim import Callback
from mge_plugin.inference.engine import Engine
from mge_plugin.inference.request import Cancelled, Sampling
from mge_plugin.inference.result import Result
from mge_plugin.inference.studio import Studio
from mge_plugin.inference.tasks import Init, Keep, Request
from mge_plugin.models.checkpoints import load_weights
from mge_plugin.models.mge import MGEModel, create_mge_model
from mge_plugin.prompts import Prompt
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model

__all__ = [
    "Cancelled",
    "Init",
    "Keep",
    "Pipeline",
    "Request",
    "Result",
    "Sampling",
    "load",
    "pick",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Prompts = Prompt | Sequence[Prompt]


class Pipeline:
    """A model with the tasks on it.

    Audio is float32 (channels, samples) at any rate and of any length; what comes back has its
    rate, channels, length and level. A prompt is a text, an audio example or both, of the task's
    prompted track, or a mapping from tracks to them (see `mge_plugin.prompts`). `callback` is
    called with every step's i, t, sigma, x and denoised; what it raises stops the run.
    """

    def __init__(self, model: MGEModel, sample_size: int, channels: int, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.engine = Engine(self.model, sample_size, device)
        self.studio = Studio(self.engine, channels)
        self.channels = channels
        self.device = device

    @property
    def sample_rate(self) -> int:
        """The model's own, Hz."""
        return self.model.sample_rate

    def generate(
        self,
        prompt: Prompt = None,
        seconds: float | None = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A mixture from a text, `seconds` long (one window if not said)."""
        request = Request("generate", (prompt,), seconds=seconds, **options)
        return self.run([request], sampling, callback)[0]

    def extract(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompts,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """The source that each prompt names in a mixture, and the residual.

        Sources + residual are the mixture. Where the mixture is silent, so are they; a source that
        is not there is silent (`sampling.gate`). What the model makes becomes a mask on the mixture
        (`mge_plugin.inference.refine`) if the mixture has a higher rate or more channels than the
        model, or as `sampling.refine` says.
        """
        request = Request("extract", several(prompt), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def add(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompts,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A new source for each prompt, in order, to go with a submixture, and the new mixture."""
        request = Request("add", several(prompt), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def accompany(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompt = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """The rest of the band for a source: the submixture, and the mixture of both."""
        request = Request("accompany", (prompt,), audio, sample_rate, **options)
        return self.run([request], sampling, callback)[0]

    def compose(
        self,
        prompt: Prompts,
        seconds: float | None = None,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """A song stem by stem: a source for each prompt, in order, and their mixture."""
        request = Request("compose", several(prompt), seconds=seconds, **options)
        return self.run([request], sampling, callback)[0]

    def replace(
        self,
        audio: np.ndarray,
        sample_rate: int,
        prompt: Prompt,
        new_prompt: Prompt,
        sampling: Sampling | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Result:
        """Another instrument for one of a mixture: extract it, keep the residual, add the new."""
        taken = self.extract(audio, sample_rate, prompt, sampling, callback, **options)
        residual = taken.audio["residual"]
        added = self.add(residual, sample_rate, new_prompt, sampling, callback, **options)
        audio = added.audio | {"removed": taken.audio["source"], "residual": residual}
        info = {"task": "replace", "extract": taken.info, "add": added.info}
        info["tracks"] = added.info["tracks"] | {
            "removed": taken.info["tracks"]["source"],
            "residual": taken.info["tracks"]["residual"],
        }
        return Result(audio, sample_rate, info, added.latents)

    def run(
        self,
        requests: Sequence[Request],
        sampling: Sampling | None = None,
        callback: Callback | None = None,
    ) -> list[Result]:
        """Several requests of one task, denoised in the same batches; a result for each."""
        if not requests:
            return []
        tasks = sorted({request.task for request in requests})
        if len(tasks) > 1:
            raise ValueError(f"requests: expected one task, found {', '.join(tasks)}")
        return self.studio.run(requests, sampling or Sampling(), callback)

    def steps(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How often the callback will be called, for a progress bar."""
        return self.studio.steps(requests, sampling)


def several(prompt: Prompts) -> tuple[Prompt, ...]:
    """One prompt or a list of them as a tuple."""
    return tuple(prompt) if isinstance(prompt, list | tuple) else (prompt,)


def remix(result: Result, gains: dict[str, float]) -> np.ndarray:
    """The tracks of an extraction summed with gains in dB; a track not named keeps its level.

    -inf leaves a track out. All at 0 dB are the mixture.
    """
    if unknown := sorted(set(gains) - set(result.audio)):
        raise ValueError(f"gains: expected tracks of {sorted(result.audio)}, found {unknown}")
    factors = {name: 10 ** (gains.get(name, 0.0) / 20) for name in result.audio}
    return sum(np.float32(factors[name]) * audio for name, audio in result.audio.items())


def load(
    model_config: Path | str,
    ckpt: Path | str,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool = False,
) -> Pipeline:
    """Open a model config and the checkpoint that belongs to it, ready for the tasks.

    `dtype` is the network's: float32, bfloat16, float16, or auto, which is bfloat16 on a GPU; the
    autoencoder stays float32. `compiled` compiles the network when it is first used, on a GPU into
    CUDA graphs: worth it for more than one song.
    """
    config = read_json(model_config)
    if not is_our_model(config):
        raise ConfigError(
            f"{model_config}: not a three-track model, whose model.diffusion.type is "
            f"{DIFFUSION_TYPE!r}"
        )
    if problems := check_model(config):
        raise ConfigError(*(f"{model_config}: {problem}" for problem in problems))
    device = pick(device)
    precision = pick_dtype(dtype, device)
    model = create_mge_model(config)
    load_weights(model, ckpt)
    pipeline = Pipeline(model, config["sample_size"], config.get("audio_channels", 2), device)
    pipeline.model.model.to(precision)
    if compiled:
        mode = "reduce-overhead" if device.startswith("cuda") else None
        pipeline.model.model.model.compile(mode=mode, dynamic=False)
    return pipeline


def pick(device: str) -> str:
    """A device that this machine has; `auto` is the GPU if there is one."""
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device != "auto" and device not in present:
        raise ValueError(f"device: expected auto or one of {', '.join(present)}, found {device!r}")
    return present[0] if device == "auto" else device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The network's precision on a device."""
    if dtype == "auto":
        half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if half else "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected auto or one of {', '.join(DTYPES)}, found {dtype!r}")
    return DTYPES[dtype]
