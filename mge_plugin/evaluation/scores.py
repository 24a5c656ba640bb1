"""Figures of one estimate of one segment."""

import numpy as np

from mge_plugin.data.audio import rms_db
from mge_plugin.evaluation.log_mel import log_mel_l1
from mge_plugin.evaluation.segments import Heard
from mge_plugin.evaluation.si_sdr import sdr, si_sdr
from mge_plugin.evaluation.spectral import spectral_distance

SILENT_DB = -120.0  # what silence is counted as, so that its mean can be taken


def score(heard: Heard, estimate: np.ndarray) -> dict[str, float]:
    """By name; of music from nothing there is no truth to hold it against."""
    segment = heard.segment
    if segment.task in ("generate", "compose"):
        return {"level_db": level(estimate)}
    if segment.absent:
        return {"silence_error_db": level(estimate) - level(heard.mixture)}
    rate = segment.sample_rate
    found = {
        "log_mel_l1": log_mel_l1(estimate, heard.truth, rate),
        "spectral_distance": spectral_distance(estimate, heard.truth),
        "level_db": level(estimate) - level(heard.mixture),
    }
    if segment.task == "extract":
        found |= {"si_sdr": si_sdr(estimate, heard.truth), "sdr": sdr(estimate, heard.truth)}
    return found


def level(audio: np.ndarray) -> float:
    """RMS in dBFS, of silence -120."""
    return max(SILENT_DB, float(rms_db(audio)))


BETTER = {
    "log_mel_l1": "lower",
    "spectral_distance": "lower",
    "si_sdr": "higher",
    "sdr": "higher",
    "silence_error_db": "lower",
    "fad": "lower",
    "similarity": "higher",
}
