"""A long song piece by piece: every piece is coded with as much around it as the coder hears.

At the song's own ends nothing is around: there a piece ends as the whole song does. So all pieces
together are the latents, or the audio, of the whole song.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mge_plugin.models.latents import encode_posterior

PROBE_FRAMES = 64  # an encoder that hears farther than half of it is not encoded in pieces
HEARD = 1e-6  # a change below this share of the latents' deviation is rounding


@dataclass(frozen=True)
class Chunk:
    """Frames [begin, end) of a song, coded from those of [first, last)."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """Its own frames among the coded ones."""
        return slice(self.begin - self.first, self.end - self.first)


def cover(frames: int, length: int, context: int) -> Iterator[Chunk]:
    """Pieces of `length` frames, with up to `context` on both sides, that make a whole song."""
    for begin in range(0, frames, length):
        end = min(frames, begin + length)
        yield Chunk(begin, end, max(0, begin - context), min(frames, end + context))


def encode_waveforms(pretransform: nn.Module, waveforms: Tensor, deviation: bool) -> Tensor:
    """(b, channel, sample) to (b, frame, part, c): the mean, and the deviation if asked for."""
    parts = encode_posterior(pretransform, waveforms[:, None])
    chosen = [part for part in parts[: 1 + deviation] if part is not None]
    return torch.stack([part[:, 0].transpose(1, 2) for part in chosen], dim=2)


def measure_context(pretransform: nn.Module) -> int:
    """`encoder_context`; an encoder that hears too far raises ValueError."""
    context = encoder_context(pretransform)
    if context is None:
        raise ValueError(
            f"the encoder hears {PROBE_FRAMES // 2 - 1} frames away or farther, so songs cannot be "
            "encoded in pieces; encode them whole (chunk 0)"
        )
    return context


def encoder_context(pretransform: nn.Module) -> int | None:
    """How many frames around its own the encoder hears; None if more than can be measured."""
    shape = (pretransform.io_channels, PROBE_FRAMES * pretransform.downsampling_ratio)

    def encode(waveform: Tensor) -> Tensor:
        return encode_waveforms(pretransform, waveform[None], True)[0]

    return _context(encode, 0.1 * _probe(shape, pretransform))


def decoder_context(pretransform: nn.Module) -> int | None:
    """How many latent frames around its own the decoder uses; None if more than can be measured."""

    def decode(latents: Tensor) -> Tensor:
        audio = pretransform.decode(latents[None])[0]
        return audio.unflatten(-1, (PROBE_FRAMES, -1)).movedim(-2, 0)

    shape = (pretransform.encoded_channels, PROBE_FRAMES)
    return _context(decode, _probe(shape, pretransform))


def _probe(shape: tuple[int, int], pretransform: nn.Module) -> Tensor:
    """Two noises (2, channel, length), the same every time."""
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next(pretransform.parameters())
    return noise.to(parameter.device, parameter.dtype)


@torch.no_grad()
def _context(code: Callable[[Tensor], Tensor], probe: Tensor) -> int | None:
    """Frames around its own that `code`, (channel, length) to (frame, ...), uses; None if too many.

    Noise from a point on is changed: the frames before it that change with it, or the other way
    round.
    """
    (one, other), middle = probe, PROBE_FRAMES // 2
    cut = one.shape[-1] // 2
    right = torch.cat([one[:, :cut], other[:, cut:]], dim=1)
    left = torch.cat([other[:, :cut], one[:, cut:]], dim=1)
    coded = [code(signal) for signal in (one, right, left)]
    reach = max(_last(coded[0], coded[1], middle), _first(coded[0], coded[2], middle))
    return None if reach >= middle - 1 else reach + 1


def silent_frame(pretransform: nn.Module, context: int, deviation: bool) -> Tensor:
    """The latents (part, c) of a frame amid silence."""
    device = next(pretransform.parameters()).device
    samples = (2 * context + 1) * pretransform.downsampling_ratio
    silence = torch.zeros(1, pretransform.io_channels, samples, device=device)
    return encode_waveforms(pretransform, silence, deviation)[0, context]


def _changed(a: Tensor, b: Tensor) -> Tensor:
    """Which frames of (frame, part, c) differ."""
    return ((a - b).abs() > HEARD * a.std()).flatten(1).any(dim=1)


def _last(a: Tensor, b: Tensor, middle: int) -> int:
    """Frames before the middle that a change after it reaches."""
    changed = _changed(a, b)[:middle].nonzero()
    return middle - int(changed.min()) if len(changed) else 0


def _first(a: Tensor, b: Tensor, middle: int) -> int:
    """Frames after the middle that a change before it reaches."""
    changed = _changed(a, b)[middle:].nonzero()
    return int(changed.max()) + 1 if len(changed) else 0
