"""On a GPU: golden outputs, the CPU's results, CUDA graphs, one copy of what is drawn."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.models.given import Given
from mge_plugin.tracks import Track, pack, unpack
from mge_plugin.training.randomness import ItemRandomness, to_device
from tests.denoise import denoise_tracks

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda")
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.1}


@pytest.fixture
def on_gpu(golden):
    return {name: v.to(GPU) if isinstance(v, torch.Tensor) else v for name, v in golden.items()}


@pytest.mark.parametrize("dtype", BOUNDS)
def test_forward_pass_and_ddim_run_are_the_published_ones(make_network, on_gpu, dtype):
    network, bound = make_network().to(GPU, dtype), {"atol": BOUNDS[dtype], "rtol": 0.0}
    embeddings = on_gpu["io.global_embed"]
    v = network(on_gpu["io.x"], on_gpu["io.t_per_track"], global_cond=embeddings)
    assert_close(v, on_gpu["io.v_per_track"], **bound)
    given = Given.track(Track.MIXTURE, on_gpu["io.given_z"])
    noise, schedule = unpack(on_gpu["io.noise"]), linear_schedule(7)
    latents = denoise_tracks(network, noise, embeddings, given, schedule, cfg_scale=2.0)
    assert_close(pack(latents), on_gpu["io.ddim_given_track0_steps7_cfg2"], **bound)


def test_gradients_are_those_of_the_cpu(make_network, golden, on_gpu):
    gradients = []
    for device, tensors in (("cpu", golden), (GPU, on_gpu)):
        network = make_network().to(device).requires_grad_(True)
        v = network(tensors["io.x"], tensors["io.t_per_track"], tensors["io.global_embed"])
        v.square().mean().backward()
        gradients.append({name: p.grad.cpu() for name, p in network.named_parameters()})
    assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_cuda_graphs_change_nothing(make_network, on_gpu):
    network = make_network().to(GPU)
    arguments = on_gpu["io.x"], on_gpu["io.t_per_track"], on_gpu["io.global_embed"]
    with torch.no_grad():
        expected = network(*arguments)
        network.model.compile(mode="reduce-overhead", dynamic=False)
        for _ in range(3):
            found = network(*arguments).clone()
    assert_close(found, expected, atol=1e-4, rtol=0)


def test_an_items_draws_are_those_of_the_cpu_in_one_copy_without_waiting():
    draws = ItemRandomness(0, [3, 4])
    parts = draws.uniform("dropout", 3), draws.normal("noise", (3, 2, 5))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = to_device(GPU, *parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close([part.cpu() for part in found], [*parts], atol=0, rtol=0)
