"""Single waveforms for training an autoencoder: `dataset_type: "mge_tracks"`.

The songs, windows and options are those of triplets; of each triplet one track is used.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import rms_db
from mge_plugin.data.dataset import TripletDataset, TripletsConfig, open_triplets
from mge_plugin.data.triplets import Triplet
from mge_plugin.data.window import Asked
from mge_plugin.tracks import Track


@dataclass(frozen=True)
class TrackWeights:
    """`tracks`: how often each is used, in relation to the others."""

    mixture: float = 1.0  # share of items that are one, relative to the others
    submixture: float = 1.0  # the same of submixtures
    source: float = 1.0  # the same of sources

    def __post_init__(self) -> None:
        if min(self.values()) < 0 or not sum(self.values()):
            raise ConfigError(f"expected weights of 0 or more, not all 0, found {self.values()}")

    def values(self) -> tuple[float, float, float]:
        """In the order of the tracks."""
        return (self.mixture, self.submixture, self.source)


@dataclass(frozen=True)
class TracksConfig(TripletsConfig):
    """A dataset config of type `mge_tracks`: that of triplets, and which track."""

    tracks: TrackWeights = field(default_factory=TrackWeights)  # which are used


class TrackDataset(Dataset):
    """Item number -> (reals (channels, samples), metadata), as SAT's autoencoder training takes it.

    A silent track is passed over: spectral losses of silence teach nothing, and SAT 0.0.19's
    explode. Where no track that has a weight sounds, the mixture is given.
    """

    def __init__(self, triplets: TripletDataset, weights: TrackWeights) -> None:
        self.triplets = triplets
        self.weights = np.array(weights.values())

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, item: int) -> tuple[Tensor, dict[str, Any]]:
        triplet, rng = self.triplets.drawn(item)
        track = self._choose(triplet, rng)
        metadata = self.triplets.describe(triplet, rng)
        kept = ("path", "gain", "seconds_start", "seconds_total", "padding_mask")
        described = {name: metadata[name] for name in kept} | {"track": track.label}
        return torch.from_numpy(np.ascontiguousarray(triplet.audio[track])), described

    def _choose(self, triplet: Triplet, rng: np.random.Generator) -> Track:
        known = (Track.MIXTURE,) if triplet.window.song.mixture_only else tuple(Track)
        silence = self.triplets.form.silence_db
        sounding = [t for t in known if rms_db(triplet.audio[t]) > silence]
        weights = self.weights[sounding] if sounding else np.zeros(0)
        if not weights.sum():
            return Track.MIXTURE
        return Track(int(rng.choice(sounding, p=weights / weights.sum())))


def open_tracks(config: TracksConfig, asked: Asked) -> TrackDataset:
    """The dataset of a config for an autoencoder."""
    return TrackDataset(open_triplets(config, asked), config.tracks)
