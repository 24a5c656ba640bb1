"""What a model takes of a song."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """As SAT's scripts say it."""

    sample_size: int  # samples of a window
    sample_rate: int  # Hz
    audio_channels: int
