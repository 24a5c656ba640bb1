"""What a user asks of a run, checked before anything slow is loaded."""

import math
from dataclasses import dataclass

MAX_SEED = 2**63 - 1  # the largest that torch's generators take on every device
REFINEMENTS = ("auto", "mask", "none")


@dataclass(frozen=True)
class Sampling:
    """How to sample; the defaults are the paper's (section E.3)."""

    steps: int = 250
    cfg_scale: float = 2.0
    seed: int = 0
    window_batch: int = 4  # windows denoised together: bounds memory
    refine: str = "auto"  # "mask" filters the input, "none" gives what the model made

    def __post_init__(self) -> None:
        for name in ("steps", "window_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        if not math.isfinite(self.cfg_scale):
            raise ValueError(f"cfg_scale: expected a finite number, found {self.cfg_scale}")
        if self.refine not in REFINEMENTS:
            raise ValueError(
                f"refine: expected one of {', '.join(REFINEMENTS)}, found {self.refine!r}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed: expected 0 to {MAX_SEED}, found {self.seed}")


def refines(sampling: Sampling, sample_rate: int, channels: int, model: tuple[int, int]) -> bool:
    """Whether to filter the input: "auto" does if it exceeds the model (its rate, channels)."""
    if sampling.refine == "auto":
        return sample_rate > model[0] or channels > model[1]
    return sampling.refine == "mask"


def check_prompt(prompt: str | None) -> None:
    """A source can be extracted only if a text says which."""
    if prompt is None or not prompt.strip():
        raise ValueError(
            f"prompt: expected words such as 'the sound of the bass', found {prompt!r}"
        )


def check_seconds(seconds: float | None) -> None:
    """A length is a number above 0, or None for the model's own."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, found {seconds}")
