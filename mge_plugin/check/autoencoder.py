"""Rules of an autoencoder: SAT's section `model`, or the same inside of a pretransform."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from mge_plugin.check.values import Config, at, is_whole, problems_of, whole
from mge_plugin.config import found, parse_section
from mge_plugin.registry import is_our_coder

HOW_TO_DECODE = ("inversions", "iterations")  # an encoder does without
SAT_CHANNELS = 2  # audio_channels of a config that does not say


def check_autoencoder(config: Config, where: str) -> list[str]:
    """What is wrong with the autoencoder at the dotted path `where` and sizes that depend on it."""
    if not isinstance(at(config, where), Mapping):
        return [f"{where}: expected an object, found {found(at(config, where))}"]
    rules = (_whole_numbers, _parts, _strides, _mel, _sample_size, _audio_channels)
    return [problem for rule in rules for problem in rule(config, where)]


def _whole_numbers(config: Config, where: str) -> Iterator[str]:
    needed = [f"{where}.{key}" for key in ("downsampling_ratio", "latent_dim", "io_channels")]
    if "audio_channels" in config:
        needed.append("audio_channels")
    for path in ("sample_rate", "sample_size", *needed):
        if whole(config, path) is None:
            yield f"{path}: expected a whole number above 0, found {found(at(config, path))}"


def _parts(config: Config, where: str) -> Iterator[str]:
    for path in (f"{where}.encoder.config", f"{where}.decoder.config"):
        if not isinstance(at(config, path), Mapping):
            yield f"{path}: expected an object, found {found(at(config, path))}"


def _strides(config: Config, where: str) -> Iterator[str]:
    for part in ("encoder", "decoder"):
        path = f"{where}.{part}.config.strides"
        strides = at(config, path)
        if isinstance(strides, list) and all(map(is_whole, strides)):
            yield from _ratio(config, where, path, math.prod(strides))
        elif strides is not None:
            yield f"{path}: expected whole numbers above 0, found {found(strides)}"


def _ratio(config: Config, where: str, path: str, product: int) -> Iterator[str]:
    ratio, inner = whole(config, f"{where}.downsampling_ratio"), _patch_size(config, where)
    if None not in (ratio, inner) and product * inner != ratio:
        patches = f", times patches of {inner}," if inner > 1 else ""
        yield (
            f"{where}.downsampling_ratio is {ratio}, but {path} {found(at(config, path))}{patches} "
            f"make {product * inner}"
        )


def _mel(config: Config, where: str) -> Iterator[str]:
    """Coders of type `mge_mel`: both are of one spectrogram, and the sizes follow from it."""
    sections = [at(config, f"{where}.{part}") for part in ("encoder", "decoder")]
    if not all(map(is_our_coder, sections)):
        return
    from mge_plugin.models.mel_autoencoder import MelConfig

    parsed, places = [], [f"{where}.{part}.config" for part in ("encoder", "decoder")]
    for section, place in zip(sections, places, strict=True):
        if wrong := problems_of(parse_section, MelConfig, section.get("config"), place):
            yield from wrong
            return
        parsed.append(parse_section(MelConfig, section.get("config"), place))
    one, other = (asdict(section) for section in parsed)
    for key in one:
        if key not in HOW_TO_DECODE and one[key] != other[key]:
            yield f"{places[0]} and {places[1]} differ in {key}: {one[key]} and {other[key]}"
    ratio = whole(config, f"{where}.downsampling_ratio")
    if ratio not in (None, parsed[0].ratio):
        yield (
            f"{where}.downsampling_ratio is {ratio}, but hop_length {parsed[0].hop_length} x "
            f"{parsed[0].frames} frames make {parsed[0].ratio}"
        )
    for key in ("latent_dim", "io_channels"):
        if whole(config, f"{where}.{key}") not in (None, one[key]):
            yield (
                f"{places[0]}.{key} is {one[key]}, but {where}.{key} is "
                f"{whole(config, f'{where}.{key}')}"
            )


def _patch_size(config: Config, where: str) -> int | None:
    """Samples a step that the autoencoder's own pretransform makes one of; None if not known."""
    inner = at(config, f"{where}.pretransform")
    if inner is None:
        return 1
    is_patched = at(inner, "type") == "patched"
    return whole(inner, "config.patch_size") if is_patched else None


def _sample_size(config: Config, where: str) -> Iterator[str]:
    size, ratio = whole(config, "sample_size"), whole(config, f"{where}.downsampling_ratio")
    if None not in (size, ratio) and size % ratio:
        nearest = max(1, (size + ratio // 2) // ratio) * ratio
        yield (
            f"sample_size {size} is not divisible by the downsampling ratio {ratio}; "
            f"the nearest that is: {nearest}"
        )


def _audio_channels(config: Config, where: str) -> Iterator[str]:
    channels = whole(config, "audio_channels", SAT_CHANNELS)
    of_autoencoder = whole(config, f"{where}.io_channels")
    if None not in (channels, of_autoencoder) and channels != of_autoencoder:
        yield f"audio_channels is {channels}, but {where}.io_channels is {of_autoencoder}"
