"""Latents from noise: the network with what is given and asked, run by the sampler."""

from torch import Tensor

from mge_plugin.inference.ddim import Callback, sample_ddim
from mge_plugin.models.given import Given
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.tracks import pack, unpack


def denoise_tracks(
    network: MGEDiffusion,
    noise: Tensor,
    embeddings: Tensor,
    given: Given | None,
    schedule: Tensor,
    cfg_scale: float,
    callback: Callback | None = None,
    negative: Tensor | None = None,
) -> Tensor:
    """Sample latents (b, k, c, n) from `noise` of that shape; given tracks come back as they were.

    `embeddings` (b, k, d), and `negative` ones to move away from, are projected once for the whole
    run.
    """
    options = {
        "given": given,
        "modulations": network.modulate(embeddings),
        "negative_modulations": None if negative is None else network.modulate(negative),
        "cfg_scale": cfg_scale,
    }

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return unpack(network(pack(x), t, **options))

    latents = sample_ddim(denoiser, noise, schedule, callback, network.objective)
    return latents if given is None else given.insert(latents)
