"""Scores from 0 to 1: is a source in a mixture, and which of several candidates is best.

    energy      level of the source below the mixture's: 0 at -50 dB, 1 from -30 dB up
    contained   share of the source's mel power that the mixture has too
    similarity  cosine of the embeddings of prompt and source, if audio is supported: 1 at 0.2
    presence    the product

    agreement   of a mixture with its parts: 1 - sum |M - E| / sum (M + E), mel powers, 1 is equal

CLAP embeddings of text and audio that match have a cosine of about 0.2 to 0.5, others about 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torchaudio.functional import melscale_fbanks

from mge_plugin.data.audio import rms_db, to_channels

SILENT_DB, SOUNDING_DB = -50.0, -30.0  # source against mixture
_SIMILAR = 0.2  # cosine from which text and audio match
_QUIET_RUN = 0.05  # seconds of exact zeros that are silence, not zero crossings


@dataclass(frozen=True)
class Presence:
    """How likely a source is in a mixture."""

    energy: float
    contained: float
    similarity: float | None = None  # cosine; None if audio is not supported

    @property
    def score(self) -> float:
        """The product, from 0 to 1."""
        score = self.energy * self.contained
        if self.similarity is not None:
            score *= float(np.clip(self.similarity / _SIMILAR, 0.0, 1.0))
        return score

    def described(self) -> dict[str, float]:
        """As plain data."""
        parts = {"score": self.score, "energy": self.energy, "contained": self.contained}
        if self.similarity is not None:
            parts["similarity"] = self.similarity
        return {name: round(float(value), 4) for name, value in parts.items()}


def presence(
    source: np.ndarray, mixture: np.ndarray, sample_rate: int, similarity: float | None = None
) -> Presence:
    """Scores of a source in a mixture, both (channels, samples) at one rate."""
    level = rms_db(source) - rms_db(mixture) if source.any() and mixture.any() else -np.inf
    energy = np.clip((level - SILENT_DB) / (SOUNDING_DB - SILENT_DB), 0.0, 1.0)
    powers = [_mel_power(audio, sample_rate) for audio in (source, mixture)]
    total = powers[0].sum()
    contained = np.minimum(*powers).sum() / total if total > 0 else 0.0
    return Presence(float(energy), float(contained), similarity)


def agreement(mixture: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Of a mixture and the sum of its parts, both (channels, samples); 1 for two silences."""
    m, e = (_mel_power(audio, sample_rate) for audio in (mixture, estimate))
    total = (m + e).sum()
    return float(1 - np.abs(m - e).sum() / total) if total > 0 else 1.0


def _mel_power(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """(channels, samples) to mel powers (64, frames) of the mono sum."""
    frame = 2 ** round(np.log2(0.064 * sample_rate))
    bands = melscale_fbanks(frame // 2 + 1, 0.0, sample_rate / 2, 64, sample_rate, None, "slaney")
    mono = torch.from_numpy(to_channels(audio, 1)[0])
    spectrum = torch.stft(
        mono,
        frame,
        frame // 4,
        window=torch.hann_window(frame),
        pad_mode="constant",
        return_complex=True,
    )
    return (bands.T @ spectrum.abs().square()).numpy()


def sounding(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """False in runs of exact zeros of (channels, samples), True elsewhere; (samples,)."""
    silent = ~audio.any(axis=0)
    edges = np.flatnonzero(np.diff(silent.astype(np.int8), prepend=0, append=0))
    mask = np.ones(audio.shape[1], dtype=bool)
    for begin, end in edges.reshape(-1, 2):
        if end - begin >= min(_QUIET_RUN * sample_rate, audio.shape[1]):
            mask[begin:end] = False
    return mask
