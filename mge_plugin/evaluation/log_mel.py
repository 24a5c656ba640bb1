"""Log-Mel L1, the paper's figure for extraction (section 3); 0 is perfect.

The paper does not state its settings. Here: 16 kHz, window 1024, hop 160, 64 mel bands from 0 to
8 kHz, power, natural logarithm with a floor of 1e-5 on both sides.
"""

import librosa
import numpy as np

from mge_plugin.data.audio import resample, to_channels

SAMPLE_RATE = 16000  # Hz
FLOOR = 1e-5


def log_mel_l1(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of the log-mel spectrograms of two (channels, samples), in mono."""
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference differ in length: {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples"
        )
    return float(np.abs(log_mel(estimate, sample_rate) - log_mel(reference, sample_rate)).mean())


def log_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """(channels, samples) to natural-log mel powers (64, frames)."""
    mono = resample(to_channels(audio, 1), sample_rate, SAMPLE_RATE)[0]
    mel = librosa.feature.melspectrogram(
        y=mono, sr=SAMPLE_RATE, n_fft=1024, hop_length=160, n_mels=64, fmin=0.0, fmax=8000.0
    )
    return np.log(np.maximum(mel, FLOOR))
