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
) -> Tensor:
    """Sample latents (b, k, c, n) from `noise` of that shape; given tracks come back as they were.

    `embeddings` (b, k, d) are projected once for the whole run.
    """
    modulations = network.modulate(embeddings)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return unpack(
            network(pack(x), t, given=given, modulations=modulations, cfg_scale=cfg_scale)
        )

    latents = sample_ddim(denoiser, noise, schedule, callback, network.objective)
    return latents if given is None else given.insert(latents)
