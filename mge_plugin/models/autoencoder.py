"""The autoencoder: how it is opened and checked, and audio to latents and back.

A long song is encoded and decoded in pieces. Each piece is computed together with as much context
on both sides as the coder's receptive field needs, and only its own frames are kept; at the song's
ends there is no context. All pieces together therefore equal the result for the whole song.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from einops import rearrange
from stable_audio_tools.models.bottleneck import VAEBottleneck
from stable_audio_tools.models.factory import create_pretransform_from_config
from stable_audio_tools.models.pretransforms import AutoencoderPretransform
from torch import Tensor, nn

from mge_plugin import registry
from mge_plugin.config import ConfigError, at, found, is_whole, parse_section, problems_of, whole
from mge_plugin.models.checkpoints import autoencoder_weights, load_into, weights_fingerprint
from mge_plugin.standins.mel_autoencoder import MelConfig

_Config = Mapping[str, Any]

_HASHED = (
    "encoder",
    "bottleneck",
    "pretransform",
    "latent_dim",
    "downsampling_ratio",
    "io_channels",
)


def create_pretransform(section: _Config, sample_rate: int) -> AutoencoderPretransform:
    """SAT's pretransform of a section `pretransform`, whose coders may be this plugin's."""
    registry.install()
    return create_pretransform_from_config(section, sample_rate)


def open_autoencoder(config: _Config, ckpt: Path) -> AutoencoderPretransform:
    """SAT's pretransform around the autoencoder, its latents unscaled as SAT stores them.

    `config` is the model config of an autoencoder or of a model with one; `ckpt` contains the
    autoencoder's weights, alone or in a whole model.
    """
    wrapped = {"type": "autoencoder", "config": autoencoder_section(config)}
    pretransform = create_pretransform(wrapped, config["sample_rate"])
    load_into(pretransform.model, ckpt, autoencoder_weights)
    return pretransform.eval().requires_grad_(False)


def autoencoder_section(config: _Config) -> Mapping[str, Any]:
    """The autoencoder's own section of a model config; another kind of model raises."""
    where = "model" if config.get("model_type") == "autoencoder" else "model.pretransform.config"
    if where != "model" and at(config, "model.pretransform.type") != "autoencoder":
        raise ConfigError(
            f"the model config has no autoencoder: model_type is "
            f"{found(config.get('model_type'))}, model.pretransform.type is "
            f"{found(at(config, 'model.pretransform.type'))}"
        )
    if problems := autoencoder_problems(config, where):
        raise ConfigError(*problems)
    return at(config, where)


def fingerprint(section: _Config, autoencoder: nn.Module) -> str:
    """A hash that is equal for equal latents: of the encoding's options and of all weights."""
    options = {name: section[name] for name in _HASHED if section.get(name) is not None}
    return weights_fingerprint(options, autoencoder)


_HOW_TO_DECODE = ("inversions", "iterations")  # options that the encoder does not use
_SAT_CHANNELS = 2  # SAT's default of audio_channels


def autoencoder_problems(config: _Config, where: str) -> list[str]:
    """What is wrong with the autoencoder at the dotted path `where` and sizes that depend on it.

    A rule looks at one thing and passes over what another rule reports, so that no mistake hides
    another.
    """
    if not isinstance(at(config, where), Mapping):
        return [f"{where}: expected an object, found {found(at(config, where))}"]
    rules = (_whole_numbers, _coders, _strides, _mel, _sample_size, _audio_channels)
    return [problem for rule in rules for problem in rule(config, where)]


def _whole_numbers(config: _Config, where: str) -> Iterator[str]:
    needed = [f"{where}.{key}" for key in ("downsampling_ratio", "latent_dim", "io_channels")]
    if "audio_channels" in config:
        needed.append("audio_channels")
    for path in ("sample_rate", "sample_size", *needed):
        if whole(config, path) is None:
            yield f"{path}: expected a whole number above 0, found {found(at(config, path))}"


def _coders(config: _Config, where: str) -> Iterator[str]:
    for path in (f"{where}.encoder.config", f"{where}.decoder.config"):
        if not isinstance(at(config, path), Mapping):
            yield f"{path}: expected an object, found {found(at(config, path))}"


def _strides(config: _Config, where: str) -> Iterator[str]:
    ratio, inner = whole(config, f"{where}.downsampling_ratio"), _patch_size(config, where)
    for part in ("encoder", "decoder"):
        path = f"{where}.{part}.config.strides"
        strides = at(config, path)
        if strides is None:
            continue
        if not isinstance(strides, list) or not all(map(is_whole, strides)):
            yield f"{path}: expected whole numbers above 0, found {found(strides)}"
        elif ratio and inner and math.prod(strides) * inner != ratio:
            patches = f", times patches of {inner}," if inner > 1 else ""
            yield (
                f"{where}.downsampling_ratio is {ratio}, but {path} {found(strides)}{patches} make "
                f"{math.prod(strides) * inner}"
            )


def _patch_size(config: _Config, where: str) -> int | None:
    """Samples that the autoencoder's own pretransform turns into one; None if not known."""
    inner = at(config, f"{where}.pretransform")
    if inner is None:
        return 1
    return whole(inner, "config.patch_size") if at(inner, "type") == "patched" else None


def _mel(config: _Config, where: str) -> Iterator[str]:
    """Coders of type `mge_mel`: both have one spectrogram, and the sizes follow from it."""
    places = [f"{where}.{part}" for part in ("encoder", "decoder")]
    if not all(registry.is_our_coder(at(config, place)) for place in places):
        return
    sections = [(at(config, f"{place}.config"), f"{place}.config") for place in places]
    for section, place in sections:
        if wrong := problems_of(parse_section, MelConfig, section, place):
            yield from wrong
            return
    parsed = [parse_section(MelConfig, *section) for section in sections]
    one, other = (asdict(section) for section in parsed)
    for key in one:
        if key not in _HOW_TO_DECODE and one[key] != other[key]:
            yield (
                f"{sections[0][1]} and {sections[1][1]} differ in {key}: {one[key]} and "
                f"{other[key]}"
            )
    ratio = whole(config, f"{where}.downsampling_ratio")
    if ratio not in (None, parsed[0].ratio):
        yield (
            f"{where}.downsampling_ratio is {ratio}, but hop_length {parsed[0].hop_length} x "
            f"{parsed[0].frames} frames make {parsed[0].ratio}"
        )
    for key in ("latent_dim", "io_channels"):
        size = whole(config, f"{where}.{key}")
        if size not in (None, one[key]):
            yield f"{sections[0][1]}.{key} is {one[key]}, but {where}.{key} is {size}"


def _sample_size(config: _Config, where: str) -> Iterator[str]:
    size, ratio = whole(config, "sample_size"), whole(config, f"{where}.downsampling_ratio")
    if size and ratio and size % ratio:
        nearest = max(1, (size + ratio // 2) // ratio) * ratio
        yield (
            f"sample_size {size} is not divisible by the downsampling ratio {ratio}; "
            f"the nearest that is: {nearest}"
        )


def _audio_channels(config: _Config, where: str) -> Iterator[str]:
    channels = whole(config, "audio_channels", _SAT_CHANNELS)
    of_autoencoder = whole(config, f"{where}.io_channels")
    if channels and of_autoencoder and channels != of_autoencoder:
        yield f"audio_channels is {channels}, but {where}.io_channels is {of_autoencoder}"


_MIN_DEVIATION = 1e-4  # SAT's VAE adds it
_ACTIVATIONS = 8  # of the first layer's size, at least as much as an encoder without gradients uses
_SHARE = 0.5  # of the free memory of a GPU


def is_vae(pretransform: AutoencoderPretransform) -> bool:
    """Whether its latents are drawn from a posterior of known mean and deviation."""
    return isinstance(pretransform.model.bottleneck, VAEBottleneck)


def encode_tracks(pretransform: AutoencoderPretransform, audio: Tensor) -> Tensor:
    """(b, k, channel, sample) to latents (b, k, c, n), of a VAE the posterior's mean."""
    return encode_posterior(pretransform, audio)[0]


def encode_posterior(
    pretransform: AutoencoderPretransform, audio: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation (b, k, c, n) of a VAE's latents; other latents have no deviation.

    One call for the whole batch; with SAT's `iterate_batch` as many waveforms as memory allows.
    """
    waveforms = rearrange(audio, "b k c s -> (b k) c s").to(_precision(pretransform))
    encode = _encode_vae if is_vae(pretransform) else _encode_otherwise
    parts = [encode(pretransform, w) for w in waveforms.split(_at_once(pretransform, waveforms))]
    means, deviations = zip(*parts, strict=True)

    def together(pieces: Sequence[Tensor]) -> Tensor:
        return rearrange(torch.cat([*pieces]).float(), "(b k) c n -> b k c n", b=len(audio))

    return together(means), None if deviations[0] is None else together(deviations)


def decode_tracks(pretransform: AutoencoderPretransform, latents: Tensor) -> Tensor:
    """Latents (b, k, c, n) to audio (b, k, channel, sample)."""
    stacked = rearrange(latents, "b k c n -> (b k) c n").to(_precision(pretransform))
    audio = pretransform.decode(stacked)
    return rearrange(audio.float(), "(b k) c s -> b k c s", b=latents.shape[0])


def _at_once(pretransform: AutoencoderPretransform, waveforms: Tensor) -> int:
    """How many waveforms (b, channel, sample) are encoded by one call."""
    if not pretransform.iterate_batch:
        return len(waveforms)
    if not waveforms.is_cuda:
        return 1
    layers = (m for m in pretransform.model.encoder.modules() if isinstance(m, nn.Conv1d))
    width = getattr(next(layers, None), "out_channels", waveforms.shape[1])
    needed = _ACTIVATIONS * width * waveforms.shape[-1] * waveforms.element_size()
    free, _ = torch.cuda.mem_get_info(waveforms.device)
    return max(1, min(len(waveforms), int(_SHARE * free / needed)))


def _encode_vae(pretransform: AutoencoderPretransform, waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """What SAT's `encode` draws from, with noise from the global generator."""
    autoencoder = pretransform.model
    if autoencoder.pretransform is not None:
        waveforms = autoencoder.pretransform.encode(waveforms)
    mean, scale = autoencoder.encoder(waveforms).chunk(2, dim=1)
    deviation = F.softplus(scale) + _MIN_DEVIATION
    return mean / pretransform.scale, deviation / pretransform.scale


def _encode_otherwise(
    pretransform: AutoencoderPretransform, waveforms: Tensor
) -> tuple[Tensor, None]:
    return pretransform.encode(waveforms), None


def _precision(pretransform: AutoencoderPretransform) -> torch.dtype:
    """Of the weights, half in a halved model."""
    return next(pretransform.parameters()).dtype


@dataclass(frozen=True)
class Chunk:
    """Frames [begin, end) of a song, computed from those of [first, last)."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """Its own frames among the computed ones."""
        return slice(self.begin - self.first, self.end - self.first)


def cover(frames: int, length: int, context: int) -> Iterator[Chunk]:
    """Pieces of `length` frames, with up to `context` on both sides, that make a whole song."""
    for begin in range(0, frames, length):
        end = min(frames, begin + length)
        yield Chunk(begin, end, max(0, begin - context), min(frames, end + context))


_PIECE_SECONDS = 30.0  # of a song at a time, so that memory does not grow with its length


@torch.no_grad()
def encode_song(pretransform: AutoencoderPretransform, audio: Tensor, sample_rate: int) -> Tensor:
    """(channel, samples), a multiple of the ratio, to latents (c, n), of a VAE the mean.

    The latents are on the autoencoder's device, wherever the audio is.
    """
    ratio, device = pretransform.downsampling_ratio, next(pretransform.parameters()).device
    pieces = []
    for piece in _pieces(pretransform, audio.shape[-1] // ratio, sample_rate, _encoder_context):
        used = audio[None, :, piece.first * ratio : piece.last * ratio].to(device)
        pieces.append(encode_waveforms(pretransform, used, False)[0, piece.kept, 0])
    return torch.cat(pieces).T


@torch.no_grad()
def decode_song(
    pretransform: AutoencoderPretransform,
    latents: Tensor,
    sample_rate: int,
    like: Tensor | None = None,
) -> Iterator[Tensor]:
    """Latents (c, n) to audio on the CPU: pieces (channel, samples), n * ratio samples in all.

    A decoder that estimates phases takes those of the audio `like` (channel, n * ratio) instead, if
    given: that is much faster.
    """
    ratio, parameter = pretransform.downsampling_ratio, next(pretransform.parameters())
    for piece in _pieces(pretransform, latents.shape[-1], sample_rate, _decoder_context):
        used = latents[None, :, piece.first : piece.last].to(parameter.device, parameter.dtype)
        if like is not None and hasattr(pretransform.model.decoder, "with_phases"):
            around = like[None, :, piece.first * ratio : piece.last * ratio]
            audio = _decode_with_phases(pretransform, used, around.to(parameter.device))[0]
        else:
            audio = pretransform.decode(used)[0]
        yield audio[:, piece.kept.start * ratio : piece.kept.stop * ratio].float().cpu()


def _decode_with_phases(
    pretransform: AutoencoderPretransform, latents: Tensor, like: Tensor
) -> Tensor:
    """As SAT's `decode`, (b, c, n) to (b, channel, sample), with the phases of `like`."""
    latents = latents * pretransform.scale
    if pretransform.model.bottleneck is not None:
        latents = pretransform.model.bottleneck.decode(latents)
    return pretransform.model.decoder.with_phases(latents, like)


def _pieces(
    pretransform: AutoencoderPretransform,
    frames: int,
    sample_rate: int,
    context_of: Callable[[AutoencoderPretransform], int | None],
) -> Iterator[Chunk]:
    """One piece for a short song and for a coder whose receptive field has no end."""
    length = max(1, round(_PIECE_SECONDS * sample_rate / pretransform.downsampling_ratio))
    context = context_of(pretransform) if frames > length else None
    return cover(frames, frames, 0) if context is None else cover(frames, length, context)


def encode_waveforms(
    pretransform: AutoencoderPretransform, waveforms: Tensor, deviation: bool
) -> Tensor:
    """(b, channel, sample) to (b, frame, part, c): the mean and, if requested, the deviation."""
    parts = encode_posterior(pretransform, waveforms[:, None])
    chosen = [part for part in parts[: 1 + deviation] if part is not None]
    return torch.stack([part[:, 0].transpose(1, 2) for part in chosen], dim=2)


def silent_frame(pretransform: AutoencoderPretransform, context: int, deviation: bool) -> Tensor:
    """The latents (part, c) of a frame in the middle of silence."""
    device = next(pretransform.parameters()).device
    samples = (2 * context + 1) * pretransform.downsampling_ratio
    silence = torch.zeros(1, pretransform.io_channels, samples, device=device)
    return encode_waveforms(pretransform, silence, deviation)[0, context]


_PROBE_FRAMES = 64  # a receptive field wider than half of it on one side is not measured
_UNCHANGED = 1e-6  # a change below this share of the latents' deviation is rounding
_contexts: WeakKeyDictionary[AutoencoderPretransform, dict[str, int | None]] = WeakKeyDictionary()


def measure_context(pretransform: AutoencoderPretransform) -> int:
    """As `_encoder_context`; raises ValueError where it cannot be measured."""
    context = _encoder_context(pretransform)
    if context is None:
        raise ValueError(
            f"the encoder uses audio {_PROBE_FRAMES // 2 - 1} frames away or more, so songs cannot "
            "be encoded in pieces; encode them whole (chunk 0)"
        )
    return context


def _encoder_context(pretransform: AutoencoderPretransform) -> int | None:
    """Frames on each side that the encoder uses for a frame; None if more than is measured."""
    shape = (pretransform.io_channels, _PROBE_FRAMES * pretransform.downsampling_ratio)

    def encode(waveform: Tensor) -> Tensor:
        return encode_waveforms(pretransform, 0.1 * waveform[None], True)[0]

    return _context(pretransform, "encoder", encode, shape)


def _decoder_context(pretransform: AutoencoderPretransform) -> int | None:
    """Latent frames on each side that the decoder uses; None if more than is measured."""

    def decode(latents: Tensor) -> Tensor:
        audio = pretransform.decode(latents[None])[0]
        return audio.unflatten(-1, (_PROBE_FRAMES, -1)).movedim(-2, 0)

    shape = (pretransform.encoded_channels, _PROBE_FRAMES)
    return _context(pretransform, "decoder", decode, shape)


def _context(
    pretransform: AutoencoderPretransform,
    part: str,
    code: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
) -> int | None:
    """Measure once for each autoencoder how many frames around its own `code` uses."""
    contexts = _contexts.setdefault(pretransform, {})
    if part not in contexts:
        noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
        parameter = next(pretransform.parameters())
        contexts[part] = _reach(code, noise.to(parameter.device, parameter.dtype))
    return contexts[part]


@torch.no_grad()
def _reach(code: Callable[[Tensor], Tensor], probe: Tensor) -> int | None:
    """Frames that `code`, (channel, length) to (frame, ...), uses on each side, from two noises.

    One half of the noise is replaced: which frames of the other half change?
    """
    (one, other), middle = probe, _PROBE_FRAMES // 2
    cut = one.shape[-1] // 2
    right = torch.cat([one[:, :cut], other[:, cut:]], dim=1)
    left = torch.cat([other[:, :cut], one[:, cut:]], dim=1)
    coded, with_right, with_left = (code(signal) for signal in (one, right, left))
    before = _changed(coded, with_right)[:middle].nonzero()
    after = _changed(coded, with_left)[middle:].nonzero()
    reach = max(
        middle - int(before.min()) if len(before) else 0,
        int(after.max()) + 1 if len(after) else 0,
    )
    return None if reach >= middle - 1 else reach + 1


def _changed(a: Tensor, b: Tensor) -> Tensor:
    """Which frames of (frame, ...) differ."""
    return ((a - b).abs() > _UNCHANGED * a.std()).flatten(1).any(dim=1)
