"""Songs of any length to latents and back, in pieces that together equal the whole."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from mge_plugin.encoding.chunks import (
    Chunk,
    cover,
    decoder_context,
    encode_waveforms,
    encoder_context,
)

CHUNK_SECONDS = 30.0  # of a piece, so that memory does not grow with the song


class Codec:
    """The model's autoencoder for songs; a coder that hears everything codes songs whole."""

    def __init__(self, pretransform: nn.Module, sample_rate: int) -> None:
        self.pretransform = pretransform
        self.ratio = pretransform.downsampling_ratio
        self.chunk = max(1, round(CHUNK_SECONDS * sample_rate / self.ratio))  # frames

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return next(self.pretransform.parameters()).device

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """(channel, samples), a multiple of the ratio, to latents (c, n), of a VAE the mean."""
        frames = audio.shape[-1] // self.ratio
        pieces = []
        for chunk in self._pieces(frames, decoding=False):
            heard = audio[None, :, chunk.first * self.ratio : chunk.last * self.ratio]
            coded = encode_waveforms(self.pretransform, heard.to(self.device), False)
            pieces.append(coded[0, chunk.kept, 0])
        return torch.cat(pieces).T

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (c, n) to audio (channel, n * ratio) on the CPU."""
        pieces = []
        for chunk in self._pieces(latents.shape[-1], decoding=True):
            used = latents[None, :, chunk.first : chunk.last].to(self.device)
            audio = self.pretransform.decode(used.to(self._precision()))[0]
            kept = chunk.kept
            pieces.append(audio[:, kept.start * self.ratio : kept.stop * self.ratio].float().cpu())
        return torch.cat(pieces, dim=1)

    def _precision(self) -> torch.dtype:
        return next(self.pretransform.parameters()).dtype

    @cached_property
    def _encoder_context(self) -> int | None:
        """Measured when the first song needs pieces."""
        return encoder_context(self.pretransform)

    @cached_property
    def _decoder_context(self) -> int | None:
        return decoder_context(self.pretransform)

    def _pieces(self, frames: int, decoding: bool) -> Iterator[Chunk]:
        """Where to cut; a song that fits one piece, or a coder without an end to it, is not cut."""
        context = None
        if frames > self.chunk:
            context = self._decoder_context if decoding else self._encoder_context
        return cover(frames, frames, 0) if context is None else cover(frames, self.chunk, context)
