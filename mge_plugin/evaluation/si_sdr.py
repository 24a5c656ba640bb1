"""Signal-to-distortion ratios of waveforms, dB; higher is better."""

import numpy as np


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant (arXiv 1811.02508), over all samples; NaN where the reference is silent."""
    estimate, reference = _pair(estimate, reference)
    energy = reference @ reference
    if energy == 0:
        return float("nan")
    target = (estimate @ reference / energy) * reference
    return _ratio(target, estimate - target)


def sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """With the reference at its own level, over all samples; NaN where it is silent."""
    estimate, reference = _pair(estimate, reference)
    return _ratio(reference, estimate - reference) if reference.any() else float("nan")


def _pair(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if estimate.shape != reference.shape:
        raise ValueError(f"estimate {estimate.shape} and reference {reference.shape} differ")
    return estimate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()


def _ratio(signal: np.ndarray, noise: np.ndarray) -> float:
    """Power of one over the other's, dB."""
    powers = float(signal @ signal), float(noise @ noise)
    if powers[1] == 0:
        return float("inf")
    return 10 * float(np.log10(powers[0] / powers[1])) if powers[0] > 0 else float("-inf")
