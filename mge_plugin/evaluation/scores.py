"""Figures of one estimate of one segment."""

import numpy as np

from mge_plugin.data.audio import rms_db
from mge_plugin.evaluation.clap_score import ClapScore
from mge_plugin.evaluation.log_mel import log_mel_l1
from mge_plugin.evaluation.segments import Estimate, Heard
from mge_plugin.evaluation.si_sdr import sdr, si_sdr
from mge_plugin.evaluation.spectral import spectral_distance

VERSION = 2  # of what is scored; what an older one scored is scored anew
SILENT_DB = -120.0  # what silence is counted as, so that its mean can be taken


def score(heard: Heard, estimate: Estimate, clap: ClapScore | None = None) -> dict[str, float]:
    """By name; of what is absent only how loud it is."""
    segment, audio = heard.segment, estimate.audio
    if segment.absent:
        return {"silence_error_db": level(audio) - level(heard.mixture)}
    if segment.task in ("generate", "compose"):
        found = {"level_db": level(audio)}
    else:
        found = _against_truth(heard, audio)
    if estimate.rest is not None:
        found["mixture_consistency_db"] = consistency(heard.mixture, audio, estimate.rest)
    return found if clap is None else found | {"clap_score": clap.score(segment, audio)}


def _against_truth(heard: Heard, audio: np.ndarray) -> dict[str, float]:
    """Music from nothing has no truth; here there is one."""
    found = {
        "log_mel_l1": log_mel_l1(audio, heard.truth, heard.segment.sample_rate),
        "spectral_distance": spectral_distance(audio, heard.truth),
        "level_db": level(audio) - level(heard.mixture),
    }
    if heard.segment.task == "extract":
        found |= {"si_sdr": si_sdr(audio, heard.truth), "sdr": sdr(audio, heard.truth)}
    return found


def consistency(mixture: np.ndarray, source: np.ndarray, submixture: np.ndarray) -> float:
    """Level of what both parts leave over of the mixture, against the mixture, dB."""
    return level(mixture - (submixture + source)) - level(mixture)


def level(audio: np.ndarray) -> float:
    """RMS in dBFS, of silence -120."""
    return max(SILENT_DB, float(rms_db(audio)))


BETTER = {
    "log_mel_l1": "lower",
    "spectral_distance": "lower",
    "si_sdr": "higher",
    "sdr": "higher",
    "silence_error_db": "lower",
    "clap_score": "higher",
    "mixture_consistency_db": "lower",
    "fad": "lower",
    "similarity": "higher",
}
