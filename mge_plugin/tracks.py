"""The three tracks of the model and how they are stacked on channels."""

from enum import IntEnum

from einops import rearrange
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


def pack(tracks: Tensor) -> Tensor:
    """Stack the tracks on channels, as SAT's models expect: (b, k, c, n) -> (b, k*c, n)."""
    return rearrange(tracks, "b k c n -> b (k c) n")


def unpack(stacked: Tensor) -> Tensor:
    """Undo `pack`: (b, k*c, n) -> (b, k, c, n)."""
    return rearrange(stacked, "b (k c) n -> b k c n", k=NUM_TRACKS)
