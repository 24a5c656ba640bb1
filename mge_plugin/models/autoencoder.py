"""Songs of any length to latents and back, in pieces that together equal the whole.

The autoencoder of a model config with its weights, whatever file they are in.

Tracks of audio to latents and back, through the model's autoencoder.

A long song piece by piece: every piece is coded with as much around it as the coder hears.

At the song's own ends nothing is around: there a piece ends as the whole song does. So all pieces
together are the latents, or the audio, of the whole song.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from stable_audio_tools.models.bottleneck import VAEBottleneck
from stable_audio_tools.models.factory import create_pretransform_from_config
from torch import Tensor, nn

from mge_plugin import registry
from mge_plugin.check import check_autoencoder
from mge_plugin.config import ConfigError, found
from mge_plugin.models.checkpoints import (
    CheckpointError,
    StateDict,
    misfits,
    old_weight_norm,
    read_checkpoint,
)
from mge_plugin.models.published import by_prefix

_HASHED = (
    "encoder",
    "bottleneck",
    "pretransform",
    "latent_dim",
    "downsampling_ratio",
    "io_channels",
)


def open_autoencoder(config: Mapping[str, Any], ckpt: Path) -> nn.Module:
    """SAT's pretransform around the autoencoder, its latents unscaled as SAT stores them.

    `config` is an autoencoder's or that of a model with one; `ckpt` holds the autoencoder's
    weights, alone or in a whole model.
    """
    registry.install()
    section = autoencoder_section(config)
    wrapped = {"type": "autoencoder", "config": section}
    pretransform = create_pretransform_from_config(wrapped, config["sample_rate"])
    weights = autoencoder_weights(old_weight_norm(read_checkpoint(ckpt)))
    if problems := misfits(pretransform.model.state_dict(), weights):
        raise CheckpointError(f"{ckpt}: does not fit the autoencoder: {'; '.join(problems)}")
    pretransform.model.load_state_dict(weights)
    return pretransform.eval().requires_grad_(False)


def autoencoder_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The autoencoder's own section of a model config; another kind of model raises."""
    model = config.get("model")
    where = "model"
    if config.get("model_type") != "autoencoder":
        model = model.get("pretransform") if isinstance(model, Mapping) else None
        kind = model.get("type") if isinstance(model, Mapping) else None
        if kind != "autoencoder":
            raise ConfigError(
                f"the model config has no autoencoder: model_type is "
                f"{found(config.get('model_type'))}, model.pretransform.type is {found(kind)}"
            )
        model, where = model.get("config"), "model.pretransform.config"
    if problems := check_autoencoder(config, where):
        raise ConfigError(*problems)
    return model


def autoencoder_weights(weights: StateDict) -> StateDict:
    """The autoencoder's tensors by their own names; all of them, so that misfits show."""
    return next(filter(None, by_prefix(weights)))


def fingerprint(section: Mapping[str, Any], autoencoder: nn.Module) -> str:
    """The same for the same latents: of what the config says of encoding, and of all weights."""
    told = {name: section[name] for name in _HASHED if section.get(name) is not None}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


_MIN_DEVIATION = 1e-4  # SAT's VAE adds it


def is_vae(pretransform: nn.Module) -> bool:
    """Whether its latents are drawn from a posterior of known mean and deviation."""
    return isinstance(pretransform.model.bottleneck, VAEBottleneck)


def encode_tracks(pretransform: nn.Module, audio: Tensor) -> Tensor:
    """(b, k, channel, sample) to latents (b, k, c, n), of a VAE the posterior's mean."""
    return encode_posterior(pretransform, audio)[0]


def encode_posterior(pretransform: nn.Module, audio: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation (b, k, c, n) of a VAE's latents; other latents come without deviation."""
    waveforms = rearrange(audio, "b k c s -> (b k) c s").to(_precision(pretransform))
    encode = _encode_vae if is_vae(pretransform) else _encode_otherwise
    if pretransform.iterate_batch:  # SAT's option: as much memory as one waveform needs
        parts = [encode(pretransform, waveform) for waveform in waveforms.split(1)]
        parts = [None if None in p else torch.cat(p) for p in zip(*parts, strict=True)]
    else:
        parts = encode(pretransform, waveforms)
    mean, deviation = (
        None if p is None else rearrange(p.float(), "(b k) c n -> b k c n", b=len(audio))
        for p in parts
    )
    return mean, deviation


def decode_tracks(pretransform: nn.Module, latents: Tensor) -> Tensor:
    """Latents (b, k, c, n) to audio (b, k, channel, sample)."""
    stacked = rearrange(latents, "b k c n -> (b k) c n").to(_precision(pretransform))
    audio = pretransform.decode(stacked)
    return rearrange(audio.float(), "(b k) c s -> b k c s", b=latents.shape[0])


def _decode_with_phases(pretransform: nn.Module, latents: Tensor, like: Tensor) -> Tensor:
    """As SAT's `decode`, (b, c, n) to (b, channel, sample), with the phases of `like`."""
    latents = latents * pretransform.scale
    if pretransform.model.bottleneck is not None:
        latents = pretransform.model.bottleneck.decode(latents)
    return pretransform.model.decoder.with_phases(latents, like)


def _encode_vae(pretransform: nn.Module, waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """What SAT's `encode` draws from: it adds noise from the global generator."""
    autoencoder = pretransform.model
    if autoencoder.pretransform is not None:
        waveforms = autoencoder.pretransform.encode(waveforms)
    mean, scale = autoencoder.encoder(waveforms).chunk(2, dim=1)
    deviation = F.softplus(scale) + _MIN_DEVIATION
    return mean / pretransform.scale, deviation / pretransform.scale


def _encode_otherwise(pretransform: nn.Module, waveforms: Tensor) -> tuple[Tensor, None]:
    return pretransform.encode(waveforms), None


def _precision(pretransform: nn.Module) -> torch.dtype:
    """Of the weights, half in a halved model."""
    return next(pretransform.parameters()).dtype


_PROBE_FRAMES = 64  # an encoder that hears farther than half of it is not encoded in pieces
_HEARD = 1e-6  # a change below this share of the latents' deviation is rounding


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
    context = _encoder_context(pretransform)
    if context is None:
        raise ValueError(
            f"the encoder hears {_PROBE_FRAMES // 2 - 1} frames away or farther, so songs cannot "
            "be encoded in pieces; encode them whole (chunk 0)"
        )
    return context


def _encoder_context(pretransform: nn.Module) -> int | None:
    """How many frames around its own the encoder hears; None if more than can be measured."""
    shape = (pretransform.io_channels, _PROBE_FRAMES * pretransform.downsampling_ratio)

    def encode(waveform: Tensor) -> Tensor:
        return encode_waveforms(pretransform, waveform[None], True)[0]

    return _context(encode, 0.1 * _probe(shape, pretransform))


def _decoder_context(pretransform: nn.Module) -> int | None:
    """How many latent frames around its own the decoder uses; None if more than can be measured."""

    def decode(latents: Tensor) -> Tensor:
        audio = pretransform.decode(latents[None])[0]
        return audio.unflatten(-1, (_PROBE_FRAMES, -1)).movedim(-2, 0)

    shape = (pretransform.encoded_channels, _PROBE_FRAMES)
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
    (one, other), middle = probe, _PROBE_FRAMES // 2
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
    return ((a - b).abs() > _HEARD * a.std()).flatten(1).any(dim=1)


def _last(a: Tensor, b: Tensor, middle: int) -> int:
    """Frames before the middle that a change after it reaches."""
    changed = _changed(a, b)[:middle].nonzero()
    return middle - int(changed.min()) if len(changed) else 0


def _first(a: Tensor, b: Tensor, middle: int) -> int:
    """Frames after the middle that a change before it reaches."""
    changed = _changed(a, b)[middle:].nonzero()
    return int(changed.max()) + 1 if len(changed) else 0


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
    def decode(self, latents: Tensor, like: Tensor | None = None) -> Tensor:
        """Latents (c, n) to audio (channel, n * ratio) on the CPU.

        A decoder without phases takes those of the audio `like` (channel, n * ratio), if given:
        that is much faster than to estimate them.
        """
        pieces = []
        for chunk in self._pieces(latents.shape[-1], decoding=True):
            used = latents[None, :, chunk.first : chunk.last].to(self.device, self._precision())
            if like is not None and hasattr(self.pretransform.model.decoder, "with_phases"):
                heard = like[None, :, chunk.first * self.ratio : chunk.last * self.ratio]
                audio = _decode_with_phases(self.pretransform, used, heard.to(self.device))[0]
            else:
                audio = self.pretransform.decode(used)[0]
            kept = chunk.kept
            pieces.append(audio[:, kept.start * self.ratio : kept.stop * self.ratio].float().cpu())
        return torch.cat(pieces, dim=1)

    def _precision(self) -> torch.dtype:
        return next(self.pretransform.parameters()).dtype

    @cached_property
    def _encoder_context(self) -> int | None:
        """Measured when the first song needs pieces."""
        return _encoder_context(self.pretransform)

    @cached_property
    def _decoder_context(self) -> int | None:
        return _decoder_context(self.pretransform)

    def _pieces(self, frames: int, decoding: bool) -> Iterator[Chunk]:
        """Where to cut; a song that fits one piece, or a coder without an end to it, is not cut."""
        context = None
        if frames > self.chunk:
            context = self._decoder_context if decoding else self._encoder_context
        return cover(frames, frames, 0) if context is None else cover(frames, self.chunk, context)
