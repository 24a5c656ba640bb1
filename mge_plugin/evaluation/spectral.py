"""Multi-resolution spectral distance, a check on Log-Mel L1 that no mel filters stand behind.

Mean over resolutions of spectral convergence and log-magnitude L1 (arXiv 1910.11480, eqs. 5 to 7).
"""

import librosa
import numpy as np

from mge_plugin.data.audio import to_channels

FFT_SIZES = (512, 1024, 2048)
FLOOR = 1e-5


def spectral_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Of two (channels, samples), in mono; 0 is equal."""
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference differ in length: {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples"
        )
    pair = [to_channels(audio, 1)[0] for audio in (estimate, reference)]
    return float(np.mean([_distance(*pair, size) for size in FFT_SIZES]))


def _distance(estimate: np.ndarray, reference: np.ndarray, size: int) -> float:
    found, true = (
        np.abs(librosa.stft(a, n_fft=size, hop_length=size // 4)) for a in (estimate, reference)
    )
    norm = np.linalg.norm(true)
    convergence = np.linalg.norm(true - found) / norm if norm > 0 else float(found.any())
    logs = [np.log(np.maximum(m, FLOOR)) for m in (found, true)]
    return float(convergence + np.abs(logs[0] - logs[1]).mean())
