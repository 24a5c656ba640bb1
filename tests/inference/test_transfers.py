"""No step of a sampler waits for the device: counted on the meta device, which has no values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mge_plugin.inference.denoiser import Denoiser
from mge_plugin.inference.request import OUR_SAMPLERS, Sampling
from mge_plugin.inference.sampling import _SAMPLERS, SCHEDULES
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.models.noise import OBJECTIVES
from mge_plugin.tracks import NUM_TRACKS, Track

CONFIG = DiTConfig(io_channels=12, embed_dim=96, depth=1, num_heads=3, global_cond_dim=8)


class Transfers(TorchDispatchMode):
    """Notes every copy between devices that is not asynchronous, and every value that is read."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [a for a in (*args, result) if isinstance(a, torch.Tensor)]
        reads = func is torch.ops.aten._local_scalar_dense.default
        if reads and args[0].device.type != "cpu":
            self.found.append(str(func))
        copies = "copy" in func.__name__ and not kwargs.get("non_blocking")
        if copies and len({t.device.type for t in tensors}) > 1:
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("sampler", OUR_SAMPLERS)
def test_no_sampler_reads_or_copies_between_devices_in_its_loop(sampler, objective):
    """With guidance per track inside an interval, windows, eta, resamplings and kept frames."""
    with torch.device("meta"):
        network = MGEDiffusion(CONFIG, OBJECTIVES[objective]).eval()
        latents = torch.zeros(1, NUM_TRACKS, 4, 14)
        keep, modulations = torch.zeros(1, NUM_TRACKS, 14), network.modulate(torch.zeros(1, 3, 8))
        given = Given.track(Track.MIXTURE, latents[:, 0]).keeping(keep, latents, latents)
    rows = WindowRows(Windows.cover(14, 8), [(0, 0), (0, 1)], 1, "cpu")
    for name in ("item", "place", "fades"):
        setattr(rows, name, getattr(rows, name).to("meta"))
    guidance = Guidance((1.0, 2.0, 3.0), (0.1, 0.9), 0.5, 0.5)
    clamped = None if sampler == "repaint" else given
    denoiser = Denoiser(network, modulations, modulations, clamped, guidance, rows, 1)
    options = {"ddim": {"eta": 0.5}, "repaint": {"given": given, "resamplings": 2}}
    with torch.no_grad(), Transfers() as transfers:
        for schedule in SCHEDULES.values():
            _SAMPLERS[sampler](
                denoiser,
                latents,
                schedule(Sampling(4).steps, objective=OBJECTIVES[objective]),
                objective=OBJECTIVES[objective],
                fresh=lambda _: torch.zeros_like(latents),
                **options.get(sampler, {}),
            )
    assert transfers.found == []
