"""How a user asks for a run to be made, checked before anything slow is loaded."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_SEED = 2**63 - 1  # the largest that torch's generators take on every device
REFINEMENTS = ("auto", "mask", "none")
LONG_FORMS = ("joint", "sequential")
SCHEDULES = ("linear", "log-snr")
OUR_SAMPLERS = ("ddim", "dpm-solver++", "heun", "repaint")
SAT_SAMPLERS = {  # stable-audio-tools' own, by diffusion objective
    "v": (
        "dpmpp-2m",
        "dpmpp-2m-sde",
        "dpmpp-3m-sde",
        "k-dpm-2",
        "k-dpm-adaptive",
        "k-dpm-fast",
        "k-dpmpp-2s-ancestral",
        "k-heun",
        "k-lms",
        "v-ddim",
        "v-ddim-cfgpp",
    ),
    "rectified_flow": ("euler", "rk4", "dpmpp", "pingpong"),
}


class Cancelled(Exception):
    """Raised by a callback to stop a run; nothing is returned and nothing written."""


@dataclass(frozen=True)
class Sampling:
    """How to sample; the defaults are the paper's (section E.3)."""

    steps: int = 250
    cfg_scale: float | tuple[float, ...] = 2.0  # or mixture's, submixture's and source's
    seed: int = 0
    window_batch: int = 4  # windows denoised together: bounds memory
    refine: str = "auto"  # "mask" filters the input, "none" gives what the model made
    sampler: str = "ddim"  # dpm-solver++, heun, repaint, or a name of stable-audio-tools'
    schedule: str = "linear"  # the paper's, or log-snr; SAT's samplers have their own
    eta: float = 0.0  # of ddim: share of the noise drawn anew in every step
    resamplings: int = 1  # of repaint: U
    cfg_interval: tuple[float, float] = (0.0, 1.0)  # shares of noise at which guidance acts
    cfg_rescale: float = 0.0  # share of guidance's result that keeps its deviation
    apg_scale: float = 0.0  # share of guidance that is orthogonal (APG)
    long_form: str = "joint"  # all windows of a song together, or "sequential": outpainting
    candidates: int = 1  # seeds tried at once; the best is kept
    gate: bool = True  # an extracted source that is not there becomes silence
    gate_threshold: float = 0.1  # presence, 0 to 1, under which it is not there

    def __post_init__(self) -> None:
        for name in ("steps", "window_batch", "resamplings", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        self._check_guidance()
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}"
                )
        for name in ("eta", "cfg_rescale", "apg_scale", "gate_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, found {getattr(self, name)}")
        check_seed(self.seed)

    def _check_guidance(self) -> None:
        scales = self.cfg_scale if isinstance(self.cfg_scale, tuple) else (self.cfg_scale,)
        if len(scales) not in (1, 3):
            raise ValueError(
                "cfg_scale: expected one number or those of mixture, submixture and source, "
                f"found {len(scales)}"
            )
        if not all(map(math.isfinite, scales)):
            raise ValueError(f"cfg_scale: expected a finite number, found {self.cfg_scale}")
        lowest, highest = self.cfg_interval
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"cfg_interval: expected two rising shares from 0 to 1, found {self.cfg_interval}"
            )

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


_CHOICES = {"refine": REFINEMENTS, "long_form": LONG_FORMS, "schedule": SCHEDULES}


def refines(sampling: Sampling, sample_rate: int, channels: int, model: tuple[int, int]) -> bool:
    """Whether to filter the input: "auto" does if it exceeds the model (its rate, channels)."""
    if sampling.refine == "auto":
        return sample_rate > model[0] or channels > model[1]
    return sampling.refine == "mask"


def check_prompt(prompt: Any) -> None:
    """A source can be made or extracted only if a text or an example says which."""
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        raise ValueError(
            f"prompt: expected words such as 'the sound of the bass', found {prompt!r}"
        )


def check_seconds(seconds: float | None) -> None:
    """A length is a number above 0, or None for the model's own."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, found {seconds}")


def check_seed(seed: int) -> None:
    """A seed is what torch's generators take."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed: expected 0 to {MAX_SEED}, found {seed}")


def check_audio(audio: np.ndarray, name: str = "audio") -> None:
    """Audio is float32 numbers, (channels, samples)."""
    if audio.ndim != 2 or not audio.size:
        raise ValueError(f"{name}: expected (channels, samples), found shape {audio.shape}")
    if audio.dtype != np.float32:
        raise ValueError(f"{name}: expected float32 samples, found {audio.dtype}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{name}: has NaN or infinite samples")
