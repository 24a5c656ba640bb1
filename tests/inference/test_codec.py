"""A long song is coded in pieces that together equal the whole."""

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.models import autoencoder as codec_module
from mge_plugin.models.autoencoder import Codec
from tests.inference.conftest import RATE

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def codecs(model, monkeypatch):
    """The same autoencoder, one for songs in pieces and one for whole songs."""

    def make(seconds):
        monkeypatch.setattr(codec_module, "CHUNK_SECONDS", seconds)
        return Codec(model.pretransform, RATE)

    return make(0.4), make(1000.0)


@pytest.mark.parametrize("frames", [1, 25, 26, 100, 151])
def test_pieces_equal_the_whole(codecs, frames):
    pieces, whole = codecs
    assert pieces.chunk == 25
    audio = 0.3 * torch.randn(1, frames * pieces.ratio, generator=torch.Generator().manual_seed(1))
    latents = whole.encode(audio)
    assert latents.shape == (4, frames)
    assert_close(pieces.encode(audio), latents, atol=1e-5, rtol=0)
    decoded = whole.decode(latents)
    assert decoded.shape == audio.shape
    assert_close(pieces.decode(latents), decoded, atol=1e-5, rtol=0)


def test_with_less_context_they_do_not(codecs):
    pieces, whole = codecs
    latents = torch.randn(4, 100)
    pieces.__dict__["_decoder_context"] = 1
    assert (pieces.decode(latents) - whole.decode(latents)).abs().max() > 1e-4


def test_a_piece_is_no_longer_than_asked_and_its_context(codecs, model, monkeypatch):
    """Memory does not grow with the song."""
    pieces, _ = codecs
    context = pieces._decoder_context
    assert 1 < context < 25
    lengths, decode = [], model.pretransform.decode
    monkeypatch.setattr(
        model.pretransform, "decode", lambda z: (lengths.append(z.shape[-1]), decode(z))[1]
    )
    pieces.decode(torch.randn(4, 400))
    assert max(lengths) == 25 + 2 * context and len(lengths) == 16


def test_a_coder_that_hears_everything_codes_whole_songs(codecs, model, monkeypatch):
    pieces, _ = codecs
    decode = model.pretransform.decode
    monkeypatch.setattr(
        model.pretransform, "decode", lambda z: decode(z - z.mean(dim=-1, keepdim=True))
    )
    assert pieces._decoder_context is None
    latents = torch.randn(4, 100)
    assert_close(pieces.decode(latents)[None], decode((latents - latents.mean(1, True))[None]))
