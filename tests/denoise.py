"""A sampling run of one window, from noise and embeddings."""

from mge_plugin.inference.denoiser import Denoiser
from mge_plugin.inference.sampling import sample_ddim
from mge_plugin.models.guidance import Guidance


def denoise_tracks(
    network, noise, embeddings, given, schedule, cfg_scale, callback=None, negative=None
):
    """Latents (b, k, c, n) by DDIM; embeddings, also negative ones, are (b, k, d)."""
    away = None if negative is None else network.modulate(negative)
    guidance = Guidance(cfg_scale)
    denoiser = Denoiser(network, network.modulate(embeddings), away, given, guidance)
    return sample_ddim(denoiser, noise, schedule, callback, network.objective)
