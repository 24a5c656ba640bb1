"""Classifier-free guidance (paper, sections 2.2 and E.3), with the options that SAT has."""

from torch import Tensor

EPS = 1e-8  # a constant output has no deviation to rescale


def guide(cond: Tensor, null: Tensor, cfg_scale: float, scale_phi: float = 0.0) -> Tensor:
    """Move from the null prediction towards the conditioned one; both (b, k*c, n).

    `scale_phi` mixes in the same result rescaled to the conditioned prediction's standard deviation
    over channels (arXiv 2305.08891, eqs. 15 and 16).
    """
    guided = null + (cond - null) * cfg_scale
    if scale_phi == 0.0:
        return guided
    deviation = cond.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True).clamp_min(EPS)
    return scale_phi * guided * deviation + (1 - scale_phi) * guided


def is_guided(sigma: Tensor, cfg_scale: float, cfg_interval: tuple[float, float]) -> bool:
    """Whether guidance acts at noise shares `sigma`, any shape; the largest counts, as in SAT."""
    if cfg_scale == 1.0:
        return False
    if tuple(cfg_interval) == (0, 1):
        return True
    return bool(cfg_interval[0] <= sigma.max() <= cfg_interval[1])
