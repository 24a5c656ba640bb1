"""Around the network's forward pass: checkpointing, norms and layers per track, sharding."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from stable_audio_tools.models import transformer
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mge_plugin.models.dit import (
    DiTConfig,
    MGEDiT,
    _TrackBlock,
    _TrackGroupNorm,
    _TrackLinear,
    needs_checkpointing,
)
from mge_plugin.tracks import NUM_TRACKS


@pytest.fixture
def checkpoints(monkeypatch):
    """How often SAT's activation checkpointing is called."""
    calls, original = [], transformer.checkpoint

    def checkpoint(function, *args, **kwargs):
        calls.append(function)
        return original(function, *args, **kwargs)

    monkeypatch.setattr(transformer, "checkpoint", checkpoint)
    return calls


def gradients(network, golden):
    network.requires_grad_(True)
    v = network(golden["io.x"], golden["io.t_per_track"], golden["io.global_embed"])
    v.square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_no_gradient(make_network, golden, checkpoints, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = gradients(make_network(use_checkpointing=False), golden)
        assert not checkpoints
        recomputed = gradients(make_network(use_checkpointing=True), golden)
    assert len(checkpoints) == 2  # a block each
    assert_close(recomputed, plain, atol=1e-6, rtol=1e-5)
    assert all(gradient.any() for gradient in plain.values())


def test_nothing_is_checkpointed_without_gradients(make_network, golden, checkpoints):
    with torch.no_grad():
        make_network(use_checkpointing=True)(
            golden["io.x"], golden["io.t_per_track"], golden["io.global_embed"]
        )
    assert not checkpoints


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_per_track_is_a_grouped_convolution(bias):
    torch.manual_seed(0)
    layer, x = _TrackLinear(8, 5, bias), torch.randn(4, NUM_TRACKS, 8)
    expected = F.conv1d(x.reshape(4, 24, 1), layer.weight, layer.bias, groups=NUM_TRACKS)
    assert_close(layer(x), expected.reshape(4, NUM_TRACKS, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_a_tracks_norm_depends_on_that_track_alone():
    torch.manual_seed(0)
    norm, x = _TrackGroupNorm(12), 3 + 5 * torch.randn(2, 7, 12)
    y = rearrange(norm(x), "b n (k w) -> b k (n w)", k=NUM_TRACKS)
    assert_close(y.mean(dim=2), torch.zeros(2, NUM_TRACKS), atol=1e-5, rtol=0)
    assert_close(y.std(dim=2, correction=0), torch.ones(2, NUM_TRACKS), atol=1e-4, rtol=0)
    x[..., :4] = 100.0  # the first track
    assert_close(rearrange(norm(x), "b n (k w) -> b k (n w)", k=NUM_TRACKS)[:, 1:], y[:, 1:])


def test_the_norm_per_track_is_torchs_group_norm():
    torch.manual_seed(0)
    norm, x = _TrackGroupNorm(12), 3 + 5 * torch.randn(2, 7, 12)
    torch.nn.init.normal_(norm.gamma)
    torch.nn.init.normal_(norm.beta)
    expected = F.group_norm(x.transpose(1, 2), NUM_TRACKS, norm.gamma, norm.beta, norm.eps)
    assert_close(norm(x), expected.transpose(1, 2), atol=1e-6, rtol=1e-6)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


class Copies(TorchDispatchMode):
    """Counts the operations that copy a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("clone", "copy_", "_to_copy")
        return function(*args, **kwargs or {})


def test_a_block_copies_no_more_than_sats_own():
    config = DiTConfig(24, 96, 1, 3, 16)
    with torch.device("meta"), torch.no_grad():
        ours, sats = (
            _TrackBlock(config, 0),
            transformer.TransformerBlock(96, 32, global_cond_dim=96),
        )
        x, counts = torch.empty(2, 9, 96), []
        for block, condition in ((ours, torch.empty(1, 2, 576)), (sats, torch.empty(2, 576))):
            with Copies() as copies:
                block(x, global_cond=condition)
            counts.append(copies.count)
    assert counts[0] <= counts[1]


def test_automatic_checkpointing_is_off_on_a_cpu():
    network = MGEDiT(DiTConfig(24, 96, 1, 3, 16))
    assert network.config.use_checkpointing == "auto"
    assert not network.checkpointing
    assert not needs_checkpointing(network, torch.empty(2, 3, 8, 9))


def test_sats_sharding_finds_our_blocks(network):
    """Its FSDP policy wraps every instance of its own block."""
    found = [m for m in network.modules() if isinstance(m, transformer.TransformerBlock)]
    assert [type(block) for block in found] == [_TrackBlock, _TrackBlock]
