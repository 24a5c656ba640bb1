"""The three tracks of the model, and the tasks on them; importable without torch."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from einops import rearrange

if TYPE_CHECKING:
    from torch import Tensor


class Track(IntEnum):
    """A track's place on the track axis `k` of every (batch, track, channel, frame) tensor."""

    MIXTURE = 0  # all stems
    SUBMIXTURE = 1  # all stems but the source
    SOURCE = 2  # that one stem

    @property
    def label(self) -> str:
        """The name used in JSON, on the command line and in reports."""
        return self.name.lower()

    @classmethod
    def parse(cls, name: str) -> "Track":
        """Look a track up by its label; raise ValueError for any other name."""
        for track in cls:
            if track.label == name:
                return track
        raise ValueError(f"unknown track {name!r}, expected one of {[t.label for t in cls]}")


NUM_TRACKS = len(Track)


@dataclass(frozen=True)
class Task:
    """One row of the paper's section 2.3."""

    given: Track | None  # the track whose audio the user has; the others are sampled
    prompted: Track  # the track that the prompt describes
    several: bool = False  # whether it takes more than one prompt
    needs_prompt: bool = False
    new_prompt: bool = False  # whether a second prompt describes what is added
    has_length: bool = False  # whether `seconds` sets the length


TASKS = {
    "generate": Task(None, Track.MIXTURE, has_length=True),
    "extract": Task(Track.MIXTURE, Track.SOURCE, several=True, needs_prompt=True),
    "add": Task(Track.SUBMIXTURE, Track.SOURCE, several=True, needs_prompt=True),
    "accompany": Task(Track.SOURCE, Track.SUBMIXTURE),
    "compose": Task(None, Track.SOURCE, several=True, needs_prompt=True, has_length=True),
    "replace": Task(Track.MIXTURE, Track.SOURCE, needs_prompt=True, new_prompt=True),
}


def pack(tracks: "Tensor") -> "Tensor":
    """Stack the tracks on channels, as SAT's models expect: (b, k, c, n) -> (b, k*c, n)."""
    return rearrange(tracks, "b k c n -> b (k c) n")


def unpack(stacked: "Tensor") -> "Tensor":
    """Undo `pack`: (b, k*c, n) -> (b, k, c, n)."""
    return rearrange(stacked, "b (k c) n -> b k c n", k=NUM_TRACKS)
