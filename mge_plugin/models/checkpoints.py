"""Weights from disk into a model: every key fits, or an error says which do not.

SAT's own loader skips keys that do not fit; the model then stays random and sounds like noise.

What a checkpoint is, told by its tensors' names or its first bytes, and what to do with it.

The published implementation's names, and the sizes that its tensors have.

| published | here, and in stable-audio-tools |
|---|---|
| model_dit. | model.model. |
| to_scale_shift_gate.2.weight | to_modulations.2.weight |
| pretransform.model. | pretransform.model. |
"""

import pickle
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint, and what someone can do who has one where another is expected."""

    name: str
    advice: str


PUBLISHED = Kind(
    "the published implementation's model", "`mge import` turns it into one of this plugin"
)
OURS = Kind(
    "a three-track model of this plugin",
    "`mge import --autoencoder-only` takes its autoencoder out",
)
AUTOENCODER = Kind("an autoencoder alone", "a training takes it as --pretransform-ckpt-path")
INNER_AUTOENCODER = Kind(
    "an autoencoder under the names of a larger model", "`mge import` takes it out"
)
AUTOENCODER_TRAINING = Kind(
    "a training checkpoint of an autoencoder", "`mge import` takes the autoencoder out"
)
CLAP = Kind("a CLAP", "the model config names it as ckpt_path of its mge_clap conditioner")
OTHER_TRAINING = Kind(
    "a training checkpoint of another diffusion model",
    "open it with the program and the config that it was trained with",
)
OTHER_DIFFUSION = Kind(
    "another diffusion model of stable-audio-tools",
    "open it in stable-audio-tools with its own model config",
)
LIGHTNING = Kind(
    "a Lightning checkpoint of another model", "open it with the program that trained it"
)

# The first pattern that begins any name tells; the more special come first.
_KINDS = {
    r"(diffusion\.)?model_dit\.": PUBLISHED,
    r"(diffusion\.)?model\.model\..*\.to_modulations\.": OURS,
    r"(text|audio)_branch\.": CLAP,
    r"diffusion(_ema)?\.": OTHER_TRAINING,
    r"model\.model\.": OTHER_DIFFUSION,
    r"autoencoder(_ema)?\.": AUTOENCODER_TRAINING,
    r"pretransform\.model\.(encoder|decoder)\.": INNER_AUTOENCODER,
    r"(encoder|decoder)\.layers\.": AUTOENCODER,
}

_LIGHTNING_MARK = "pytorch-lightning_version"  # a text beside the tensors

_PAGE = "a web page, saved in place of the file; download it again"
_TEXTS = {  # how texts begin that are saved in place of a checkpoint, in lower case
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<head": _PAGE,
    b"<!--": _PAGE,
    b"<?xml": "a message in XML, as a server sends in place of a file; read it",
    b"{": "a text in JSON, a server's message or a model config; open it in an editor",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
}
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"  # torch.save's files are zip archives with a file data.pkl
_LARGEST_PICKLE = 2**26  # bytes


def kind_of(names: Iterable[str]) -> Kind | None:
    """What tensors of these names are; None if the names do not tell."""
    names = [name.removeprefix("module.") for name in names]
    for pattern, kind in _KINDS.items():
        if any(re.match(pattern, name) for name in names):
            return kind
    return None


def kind_of_file(path: Path, names: Iterable[str]) -> Kind | None:
    """The same, or that Lightning wrote the file, if its tensors' names do not tell."""
    if kind := kind_of(names):
        return kind
    return LIGHTNING if _LIGHTNING_MARK in texts_in(path) else None


def texts_in(path: Path) -> set[str]:
    """The texts of a file that torch.save wrote, among them its tensors' names; nothing is run."""
    if not zipfile.is_zipfile(path):
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [
                archive.read(entry)
                for entry in archive.infolist()
                if entry.filename.endswith("/data.pkl") and entry.file_size < _LARGEST_PICKLE
            ]
        return {
            value
            for pickled in pickles
            for _, value, _ in pickletools.genops(pickled)
            if isinstance(value, str)
        }
    except (zipfile.BadZipFile, ValueError):  # damaged: no names then
        return set()


def _told_by_bytes(path: Path) -> str | None:
    """What a file is that is no checkpoint, from its bytes, and what to do; None if unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_GZIP):
        return "a gzip archive; unpack it"
    if start.startswith(_ZIP):
        return _told_by_archive(path)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\0" in text:
        return None
    return next((told for begins, told in _TEXTS.items() if text.startswith(begins)), None)


def _told_by_archive(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "an incomplete download, its end is missing; fetch it again and compare its size"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"a zip archive of other files ({', '.join(names[:3]) or 'empty'}); unpack it"


StateDict = dict[str, Tensor]

_NETWORK = "model_dit."
OUR_NETWORK = "model.model."
MODULATION, OUR_MODULATION = ".to_scale_shift_gate.", ".to_modulations."
PUBLISHED_AUTOENCODER = "pretransform.model."
_HEAD_WIDTH = 32  # channels of an attention head
# torch 2's names of a weight-normed layer's parameters, and the older ones, which SAT has
_NEW_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}


def _is_official(weights: Mapping[str, Any]) -> bool:
    """Whether the names are the published implementation's."""
    return any(key.startswith(_NETWORK) for key in weights)


def from_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Published names to ours; the tensors are the same objects."""
    return {
        _replace_start(key, _NETWORK, OUR_NETWORK).replace(MODULATION, OUR_MODULATION): value
        for key, value in old_weight_norm(weights).items()
    }


def to_official(weights: Mapping[str, Tensor]) -> StateDict:
    """Our names to the published ones; the tensors are the same objects."""
    return {
        _replace_start(key, OUR_NETWORK, _NETWORK).replace(OUR_MODULATION, MODULATION): value
        for key, value in old_weight_norm(weights).items()
    }


def old_weight_norm(weights: Mapping[str, Tensor]) -> StateDict:
    """The names `weight_g` and `weight_v`, which SAT has, of every weight-normed layer."""
    return {_old_name(key): value for key, value in weights.items()}


def _weight_norm_as(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> StateDict:
    """The names of weight norm that `expected` has, of every weight-normed layer in it."""
    names = {_old_name(key): key for key in expected}
    return {names.get(key, key): value for key, value in old_weight_norm(weights).items()}


def _old_name(key: str) -> str:
    for new, old in _NEW_NAMES.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


def _replace_start(key: str, start: str, new: str) -> str:
    return new + key.removeprefix(start) if key.startswith(start) else key


def network_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """`model.diffusion.config` of a network's tensors, under our names."""

    def shape(name: str) -> Any:
        return weights[OUR_NETWORK + name].shape

    embed_dim, io_channels = shape("transformer.project_in.weight")
    return {
        "io_channels": io_channels,
        "embed_dim": embed_dim,
        "depth": _count(weights, rf"{re.escape(OUR_NETWORK)}transformer\.layers\.(\d+)\."),
        "num_heads": embed_dim // _HEAD_WIDTH,
        "global_cond_dim": shape("to_global_embed.1.weight")[1],
        "timestep_features_dim": 2 * shape("timestep_features.weight")[0],
    }


@dataclass(frozen=True)
class Oobleck:
    """The sizes of one half of SAT's Oobleck autoencoder."""

    io_channels: int  # of the audio
    channels: int
    c_mults: list[int]
    strides: list[int]
    latent_dim: int
    use_snake: bool


def encoder_sizes(weights: Mapping[str, Tensor]) -> Oobleck:
    """From an autoencoder's tensors, names starting with `encoder.layers.`."""
    stages = _count(weights, r"encoder\.layers\.(\d+)\.layers\.4\.weight_v")
    first = weights["encoder.layers.0.weight_v"].shape
    downs = [weights[f"encoder.layers.{i + 1}.layers.4.weight_v"].shape for i in range(stages)]
    channels = first[0]
    return Oobleck(
        io_channels=first[1],
        channels=channels,
        c_mults=[down[0] // channels for down in downs],
        strides=[down[2] // 2 for down in downs],  # a kernel is two strides long
        latent_dim=weights[f"encoder.layers.{stages + 2}.weight_v"].shape[0],
        use_snake="encoder.layers.1.layers.3.alpha" in weights,
    )


def decoder_sizes(weights: Mapping[str, Tensor]) -> Oobleck:
    """From an autoencoder's tensors, names starting with `decoder.layers.`."""
    stages = _count(weights, r"decoder\.layers\.(\d+)\.layers\.1\.weight_v")
    ups = [weights[f"decoder.layers.{i + 1}.layers.1.weight_v"].shape for i in range(stages)]
    last = weights[f"decoder.layers.{stages + 2}.weight_v"].shape
    channels = last[1]
    return Oobleck(
        io_channels=last[0],
        channels=channels,
        c_mults=[up[0] // channels for up in reversed(ups)],
        strides=[up[2] // 2 for up in reversed(ups)],
        latent_dim=weights["decoder.layers.0.weight_v"].shape[1],
        use_snake="decoder.layers.1.layers.0.alpha" in weights,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the names have where the pattern's group is."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


_WRAPPED = "diffusion."  # keys of a Lightning checkpoint of SAT's diffusion training
_AVERAGED = "diffusion_ema.ema_model."
_PARALLEL = "module."  # what DistributedDataParallel puts before every key
_SHOWN = 8  # keys named of each kind of problem
_LARGEST_HEADER = 10**8  # bytes, of safetensors


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message says what is wrong."""


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a safetensors file or one of torch.save's; a training's is unwrapped."""
    return unwrap(read_weights(Path(path)))


def read_weights(path: Path) -> StateDict:
    """The same under the names that the file has, mapped into memory until they are used."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    content = _load_tensors(path) if _is_safetensors(path) else load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not _are_weights(state_dict):
        raise CheckpointError(f"{path}: holds {_what_else(content, state_dict)}")
    return dict(state_dict)


def _is_safetensors(path: Path) -> bool:
    """By its content, whatever its name: the length of a header, then the header, in JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER


def _load_tensors(path: Path) -> StateDict:
    """A safetensors file's content."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote, if it is tensors and plain values: nothing in the file is run."""
    mapped = zipfile.is_zipfile(path)  # torch's older format cannot be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        called = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if called is None:
            raise _unreadable(path, "not written by torch.save") from error
        raise _refused(path, called[1]) from error
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        raise _unreadable(path, str(error)) from error


def unwrap(state_dict: StateDict) -> StateDict:
    """A training checkpoint's keys to the model's own, the averaged network where there is one.

    Does what SAT's `unwrap_model.py` does, and the published implementation's for its own; a
    checkpoint that is not wrapped is returned as it is.
    """
    if all(key.startswith(_PARALLEL) for key in state_dict):
        state_dict = {key.removeprefix(_PARALLEL): value for key, value in state_dict.items()}
    if not any(key.startswith(_WRAPPED) for key in state_dict):
        return state_dict
    plain = {k.removeprefix(_WRAPPED): v for k, v in state_dict.items() if k.startswith(_WRAPPED)}
    network = _NETWORK if _is_official(plain) else "model."
    averaged = {
        network + key.removeprefix(_AVERAGED): value
        for key, value in state_dict.items()
        if key.startswith(_AVERAGED)
    }
    return plain | averaged


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a checkpoint into `model`; missing, unexpected or misshapen keys raise, by name.

    Either naming of weight norm fits: the model's own is taken.
    """
    expected = model.state_dict()
    found = _weight_norm_as(expected, read_checkpoint(path))
    if problems := misfits(expected, found):
        other = _other_kind(Path(path), expected, found)
        misfit = f"does not fit the model config: {'; '.join(problems)}"
        raise CheckpointError(f"{path}: {other or misfit}")
    model.load_state_dict(found)


def _other_kind(
    path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str | None:
    """What `found` is, if of another kind than `expected`, and what to do with it."""
    wanted, kind = kind_of(expected), kind_of_file(path, found)
    if kind is None or kind is wanted:
        return None
    return f"{kind.name}, expected {wanted.name if wanted else 'another'}; {kind.advice}"


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected or misshapen in `found`, one phrase a kind."""
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "misshapen": shapes,
    }
    return [_describe(kind, keys) for kind, keys in kinds.items() if keys]


def _describe(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:_SHOWN])}{more})"


def _are_weights(content: Mapping) -> bool:
    named = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    return bool(content) and named


def _what_else(content: object, state_dict: object) -> str:
    """What a file has in place of tensors by name, or among them."""
    if isinstance(state_dict, Mapping):
        others = [str(k) for k, value in state_dict.items() if not isinstance(value, Tensor)]
        if 0 < len(others) < len(state_dict):
            return f"more than tensors among its weights: {', '.join(others[:_SHOWN])}"
    inside = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
    return f"no weights, expected tensors by name, found {reprlib.repr(inside)}"


def _refused(path: Path, called: str) -> CheckpointError:
    """The error of a file that holds more than tensors; its names may still tell what it is."""
    kind = kind_of_file(path, texts_in(path))
    refused = f"refused, since opening it would call {called}; expected tensors, numbers and texts"
    if kind is None:
        return CheckpointError(f"{path}: {refused} only")
    if kind is CLAP:
        return CheckpointError(f"{path}: {kind.name}; {kind.advice}")
    return CheckpointError(
        f"{path}: {kind.name}, {refused} only; write its weights alone with the unwrap_model.py of "
        "the program that trained it"
    )


def _unreadable(path: Path, reason: str) -> CheckpointError:
    size = path.stat().st_size
    if told := _told_by_bytes(path):
        return CheckpointError(f"{path}: not a readable checkpoint but {told} ({size} bytes)")
    reason = reason.strip().splitlines()[0][:200] if reason.strip() else "it ends too early"
    return CheckpointError(
        f"{path}: not a readable checkpoint ({size} bytes: {reason}); "
        "an incomplete download or another kind of file?"
    )
