"""Chunks: all pieces together are the latents of the whole song."""

import pytest
import torch
from stable_audio_tools.models.factory import create_pretransform_from_config
from torch.testing import assert_close

from mge_plugin.models.autoencoder import cover, encode_waveforms, measure_context, silent_frame
from tests.encoding.tiny import RATE, RATIO, vae_section


def pretransform_of(bottleneck="vae", **changes):
    torch.manual_seed(3)
    config = {"type": "autoencoder", "config": vae_section(bottleneck) | changes}
    return create_pretransform_from_config(config, RATE).eval().requires_grad_(False)


def encode_in_chunks(pretransform, waveforms, length, context):
    frames, pieces = waveforms.shape[-1] // RATIO, []
    for chunk in cover(frames, length, context):
        piece = waveforms[..., chunk.first * RATIO : chunk.last * RATIO]
        pieces.append(encode_waveforms(pretransform, piece, True)[:, chunk.kept])
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("length", [1, 7, 50, 63, 500])
@pytest.mark.parametrize("bottleneck", ["vae", "tanh"])
def test_chunked_encoding_is_whole_encoding(length, bottleneck):
    pretransform = pretransform_of(bottleneck)
    waveforms = torch.randn(2, 1, 151 * RATIO)
    whole = encode_waveforms(pretransform, waveforms, True)
    assert whole.shape == (2, 151, 2 if bottleneck == "vae" else 1, 4)
    pieces = encode_in_chunks(pretransform, waveforms, length, measure_context(pretransform))
    assert_close(pieces, whole, atol=1e-5, rtol=0)


def test_with_less_context_it_is_not():
    pretransform = pretransform_of()
    waveforms = torch.randn(1, 1, 151 * RATIO)
    context = measure_context(pretransform)
    assert 3 < context < 20  # 39 samples of dilated kernels at each rate, 32 samples a frame
    pieces = encode_in_chunks(pretransform, waveforms, 50, context // 3)
    whole = encode_waveforms(pretransform, waveforms, True)
    assert (pieces - whole).abs().max() > 1e-4


def test_an_encoder_that_hears_everything_is_refused():
    pretransform = pretransform_of()
    encoder = pretransform.model.encoder
    encoder.forward = lambda x: encoder.layers(x) - encoder.layers(x).mean(dim=-1, keepdim=True)
    with pytest.raises(ValueError, match=r"31 frames away or more.*chunk 0"):
        measure_context(pretransform)


def test_a_silent_frame_is_what_a_long_silence_has_in_its_middle():
    pretransform = pretransform_of()
    silence = encode_waveforms(pretransform, torch.zeros(1, 1, 100 * RATIO), True)
    frame = silent_frame(pretransform, measure_context(pretransform), True)
    assert_close(frame, silence[0, 50], atol=1e-6, rtol=0)
    assert (silence[0, 0] - frame).abs().max() > 1e-4  # the edge is another


@pytest.mark.parametrize("frames, length", [(1, 5), (10, 5), (11, 5), (4, 5)])
def test_pieces_cover_a_song_once(frames, length):
    chunks = list(cover(frames, length, 3))
    assert [i for c in chunks for i in range(c.begin, c.end)] == list(range(frames))
    assert all(0 <= c.first <= c.begin and c.end <= c.last <= frames for c in chunks)
