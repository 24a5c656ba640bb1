"""Scale-invariant signal-to-distortion ratio (arXiv 1811.02508), dB; higher is better."""

import numpy as np


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """SI-SDR over all samples of two arrays of one shape; NaN where the reference is silent."""
    if estimate.shape != reference.shape:
        raise ValueError(f"estimate {estimate.shape} and reference {reference.shape} differ")
    estimate, reference = estimate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    energy = reference @ reference
    if energy == 0:
        return float("nan")
    target = (estimate @ reference / energy) * reference
    noise = float(((estimate - target) ** 2).sum())
    signal = float(target @ target)
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal > 0 else float("-inf")
