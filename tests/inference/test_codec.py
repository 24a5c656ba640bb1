"""A long song is encoded and decoded in pieces that together equal the whole."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.models import autoencoder
from mge_plugin.models.autoencoder import _decoder_context, decode_song, encode_song
from tests.inference.conftest import RATE

PIECE = 25  # frames


@pytest.fixture
def pieces(model, monkeypatch):
    """The autoencoder's ratio; pieces are 25 frames from then on."""
    ratio = model.pretransform.downsampling_ratio
    monkeypatch.setattr(autoencoder, "_PIECE_SECONDS", PIECE * ratio / RATE)
    monkeypatch.setattr(autoencoder, "_contexts", {})
    return ratio


def decoded(model, latents):
    return torch.cat([*decode_song(model.pretransform, latents, RATE)], dim=1)


@pytest.mark.parametrize("frames", [1, 25, 26, 151])
def test_pieces_equal_the_whole(pieces, model, monkeypatch, frames):
    noise = torch.randn(1, frames * pieces, generator=torch.Generator().manual_seed(1))
    latents = encode_song(model.pretransform, 0.3 * noise, RATE)
    audio = decoded(model, latents)
    monkeypatch.setattr(autoencoder, "_PIECE_SECONDS", 1e9)
    assert_close(encode_song(model.pretransform, 0.3 * noise, RATE), latents, atol=1e-5, rtol=0)
    assert_close(decoded(model, latents), audio, atol=1e-5, rtol=0)


def test_a_piece_has_a_bounded_length_so_memory_does_not_grow(pieces, model, monkeypatch):
    context = _decoder_context(model.pretransform)
    assert 1 < context < PIECE
    lengths, decode = [], model.pretransform.decode
    monkeypatch.setattr(
        model.pretransform, "decode", lambda z: (lengths.append(z.shape[-1]), decode(z))[1]
    )
    decoded(model, torch.randn(4, 400))
    assert max(lengths) == PIECE + 2 * context and len(lengths) == 16


def test_a_coder_without_a_bounded_receptive_field_decodes_whole_songs(pieces, model, monkeypatch):
    decode = model.pretransform.decode
    monkeypatch.setattr(
        model.pretransform, "decode", lambda z: decode(z - z.mean(dim=-1, keepdim=True))
    )
    assert _decoder_context(model.pretransform) is None
    latents = torch.randn(4, 100)
    assert_close(decoded(model, latents)[None], decode((latents - latents.mean(1, True))[None]))
