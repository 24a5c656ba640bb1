"""Checkpoints: read a file, recognise what it is, load it into a module, write one.

SAT's own loader skips tensors that do not fit, and the model stays random. Here every tensor fits,
or the error says which do not. Reading never runs code of a file: tensors, numbers and texts are
all that is unpickled.
"""

import hashlib
import json
import logging
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from shutil import disk_usage
from stat import S_IMODE
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mge_plugin.files import is_zip, written_whole

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

OUR_NETWORK = "model.model."  # where the names of a three-track network start
PUBLISHED_NETWORK = "model_dit."  # the same in the published implementation
AUTOENCODER_PREFIX = "pretransform.model."  # of an autoencoder's names in a whole model


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not one of this model; the message names file and reason."""


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint, and what to do with it where another kind is expected."""

    name: str
    advice: str


PUBLISHED = Kind(
    "the published implementation's model", "`mge import` converts it into one of this plugin"
)
OURS = Kind(
    "a three-track model of this plugin", "`mge import --autoencoder-only` extracts its autoencoder"
)
AUTOENCODER = Kind("an autoencoder alone", "train with it as --pretransform-ckpt-path")
INNER_AUTOENCODER = Kind(
    "an autoencoder under the names of a larger model", "`mge import` extracts it"
)
AUTOENCODER_TRAINING = Kind(
    "a training checkpoint of an autoencoder", "`mge import` extracts the autoencoder"
)
CLAP = Kind("a CLAP", "set it as ckpt_path of the mge_clap conditioner in the model config")
_OTHER_TRAINING = Kind(
    "a training checkpoint of another diffusion model",
    "open it with the program and the config that it was trained with",
)
_OTHER_DIFFUSION = Kind(
    "another diffusion model of stable-audio-tools",
    "open it in stable-audio-tools with its own model config",
)
_LIGHTNING = Kind(
    "a Lightning checkpoint of another model", "open it with the program that trained it"
)

# The first pattern that matches the start of any name decides; the more special come first.
_KINDS = {
    r"(diffusion\.)?model_dit\.": PUBLISHED,
    r"(diffusion\.)?model\.model\..*\.to_modulations\.": OURS,
    r"(text|audio)_branch\.": CLAP,
    r"diffusion(_ema)?\.": _OTHER_TRAINING,
    r"model\.model\.": _OTHER_DIFFUSION,
    r"autoencoder(_ema)?\.": AUTOENCODER_TRAINING,
    r"pretransform\.model\.(encoder|decoder)\.": INNER_AUTOENCODER,
    r"(encoder|decoder)\.layers\.": AUTOENCODER,
}
_LIGHTNING_MARK = "pytorch-lightning_version"  # a text beside the tensors


def _kind_of(names: Iterable[str]) -> Kind | None:
    """What tensors of these names are; None if the names do not show it."""
    names = [_plain_name(name) for name in names]
    for pattern, kind in _KINDS.items():
        if any(re.match(pattern, name) for name in names):
            return kind
    return None


def kind_of_file(path: Path, names: Iterable[str]) -> Kind | None:
    """As `_kind_of`; where the names do not show it, whether Lightning wrote the file."""
    if kind := _kind_of(names):
        return kind
    return _LIGHTNING if _LIGHTNING_MARK in _texts(path) else None


_PARALLEL = "module."  # DistributedDataParallel puts it before every name
_COMPILED = "_orig_mod."  # torch.compile puts it before the names of each compiled module
_WRAPPED = "diffusion."  # names in a Lightning checkpoint of SAT's diffusion training
_AVERAGED = "diffusion_ema.ema_model."
# torch 2's names of a weight-normed layer's parameters, and the older ones, which SAT has
_NEW_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
# Where an autoencoder's names are: in a whole model, in SAT's training of one (the averaged weights
# first), alone.
_AUTOENCODER_PREFIXES = (
    AUTOENCODER_PREFIX, "autoencoder_ema.ema_model.", "autoencoder.", "",
)  # fmt: skip
_AUTOENCODER_PARTS = ("encoder.", "decoder.", "bottleneck.", "pretransform.")


def unwrap(state_dict: StateDict) -> StateDict:
    """The model's own names of a training checkpoint, with the averaged network where there is one.

    Equals SAT's `unwrap_model.py`, and the published implementation's for its own checkpoints.
    Prefixes of compiled and of data-parallel modules are removed. A checkpoint that is not wrapped
    is returned as it is.
    """
    state_dict = {_plain_name(key): value for key, value in state_dict.items()}
    plain = _under(_WRAPPED, state_dict)
    if not plain:
        return state_dict
    published = any(key.startswith(PUBLISHED_NETWORK) for key in plain)
    network = PUBLISHED_NETWORK if published else "model."
    averaged = _under(_AVERAGED, state_dict)
    return plain | {network + key: value for key, value in averaged.items()}


def autoencoder_weights(found: Mapping[str, Tensor]) -> StateDict | None:
    """An autoencoder's tensors by their own names; None if there is no encoder and decoder.

    `found` is an autoencoder alone, a training of one (its averaged weights) or a whole model.
    """
    for prefix in _AUTOENCODER_PREFIXES:
        bare = _under(prefix, found)
        if all(any(key.startswith(part) for key in bare) for part in _AUTOENCODER_PARTS[:2]):
            parts = {k: v for k, v in bare.items() if k.startswith(_AUTOENCODER_PARTS)}
            return old_weight_norm(parts)
    return None


def old_weight_norm(weights: Mapping[str, Tensor]) -> StateDict:
    """Every weight-normed layer under the names `weight_g` and `weight_v`, which SAT has."""
    return {_old_name(key): value for key, value in weights.items()}


def _weight_norm_as(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> StateDict:
    """Every weight-normed layer under the names that `expected` has for it."""
    names = {_old_name(key): key for key in expected}
    return {names.get(key, key): value for key, value in old_weight_norm(weights).items()}


def _old_name(key: str) -> str:
    for new, old in _NEW_NAMES.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


def _plain_name(key: str) -> str:
    return key.replace(_COMPILED, "").removeprefix(_PARALLEL)


def _under(prefix: str, weights: Mapping[str, Tensor]) -> StateDict:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


_SHOWN = 8  # names in a message, of each kind of problem
_LARGEST_HEADER = 10**8  # bytes, of safetensors
_LARGEST_PICKLE = 2**24  # bytes that are looked through


def read_checkpoint(path: Path | str) -> StateDict:
    """Tensors by name from a safetensors file or one of torch.save's, unwrapped (see `unwrap`).

    They are mapped into memory until they are used.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    content = _read_safetensors(path) if _is_safetensors(path) else load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping) or not _are_weights(state_dict):
        raise CheckpointError(f"{path}: contains {_what_else(content, state_dict)}")
    return unwrap(dict(state_dict))


def explain(path: Path, error: Exception) -> CheckpointError:
    """Why a file cannot be read as a checkpoint, and what to do; `error` is what torch raised."""
    if calls := _unsafe_calls(path):
        return CheckpointError(f"{path}: {_refused(path, calls)}")
    size = path.stat().st_size
    if other := _other_content(path):
        return CheckpointError(f"{path}: not a readable checkpoint but {other} ({size} bytes)")
    reason = str(error).strip()
    reason = reason.splitlines()[0][:200] if reason else "it ends too early"
    return CheckpointError(
        f"{path}: not a readable checkpoint ({size} bytes: {reason}); "
        "an incomplete download or another kind of file?"
    )


def _is_safetensors(path: Path) -> bool:
    """By its content, whatever its name: the length of a header, then the header, in JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER


def _read_safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise explain(path, error) from error


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote, if it is tensors and plain values: nothing in the file is run."""
    mapped = is_zip(path)  # torch's older format cannot be mapped
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):  # CLAP's file has scores in it
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        raise explain(path, error) from error


def _numpy_scalars() -> list[Any]:
    """What numpy needs to rebuild a number; none of it runs code from the file."""
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")]
    core = "numpy._core" if find_spec("numpy._core") else "numpy.core"  # before numpy 2
    scalar = import_module(f"{core}.multiarray").scalar
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *kinds]


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


_PAGE = "a web page, saved in place of the file; download it again"
_TEXTS = {  # how texts start that are saved in place of a checkpoint, in lower case
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
_HARMLESS = re.compile(r"(torch|numpy|_codecs|collections)\.|(builtins|__builtin__)\.(set|complex)")
_MALICIOUS = re.compile(
    r"(os|posix|nt|subprocess|sys|io|_io|runpy|importlib|shutil|socket|pty|ctypes|webbrowser|pip|"
    r"timeit|code|commands|multiprocessing|asyncio|urllib|requests)\."
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__|getattr|apply|input)$"
)


def _other_content(path: Path) -> str | None:
    """What a file is that is no checkpoint, and what to do with it; None if it is not known."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_GZIP):
        return "a gzip archive; unpack it"
    if start.startswith(_ZIP):
        return _other_archive(path)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\0" in text:
        return None
    return next((what for begins, what in _TEXTS.items() if text.startswith(begins)), None)


def _other_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged directory raises many kinds
        whole = is_zip(path)
        what = "a damaged file" if whole else "an incomplete download, its end is missing"
        return f"{what}; fetch it again and compare its size"
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"a zip archive of other files ({', '.join(names[:3]) or 'empty'}); unpack it"


def _opcodes(path: Path) -> list[tuple[str, Any]]:
    """Name and argument of the opcodes of a file's pickle as far as it is whole; none is run."""
    found: list[tuple[str, Any]] = []
    try:
        stream = BytesIO(_pickle(path))
        while True:  # torch's older format has several pickles, one after another
            for opcode, value, _ in pickletools.genops(stream):
                found.append((opcode.name, value))
    except Exception:  # the end, or damage of any kind: what came before it is as it was
        return found


def _pickle(path: Path) -> bytes:
    if not is_zip(path):
        with path.open("rb") as file:
            return file.read(_LARGEST_PICKLE)
    with zipfile.ZipFile(path) as archive:
        entries = (entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
        with archive.open(next(entries)) as file:
            return file.read(_LARGEST_PICKLE)


def _texts(path: Path) -> set[str]:
    """The texts of a file that torch.save wrote, among them its tensors' names."""
    if not is_zip(path):
        return set()
    return {value for _, value in _opcodes(path) if isinstance(value, str)}


def _unsafe_calls(path: Path) -> list[str]:
    """Functions and classes that unpickling the file would call, other than a tensor's own."""
    if _is_safetensors(path):
        return []
    calls, texts = [], [""]
    for name, value in _opcodes(path):
        if name in ("GLOBAL", "INST"):
            calls.append(str(value).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            calls.append(".".join(texts[-2:]))
        elif isinstance(value, str):
            texts.append(value)
    return [call for call in dict.fromkeys(calls) if not _HARMLESS.match(call)]


def _refused(path: Path, calls: list[str]) -> str:
    """What is wrong with a file whose unpickling calls more than a tensor's own functions."""
    if malicious := [call for call in calls if _MALICIOUS.match(call)]:
        return (
            f"malicious: to unpickle it would run {malicious[0]}, which no weights need; nothing "
            "was run. Delete it and do not open it with another program"
        )
    kind = kind_of_file(path, _texts(path))
    refused = (
        f"refused, since to unpickle it would call {calls[0]}; expected tensors, numbers and texts"
    )
    if kind is None:
        return f"{refused} only"
    return (
        f"{kind.name}, {refused} only; write its weights alone with the unwrap_model.py of the "
        "program that trained it"
    )


def load_into(
    module: nn.Module,
    path: Path | str,
    select: Callable[[StateDict], StateDict | None] = dict,
) -> None:
    """Load a checkpoint into `module`; missing, unexpected or misshapen tensors raise, by name.

    `select` picks the module's tensors from the file's, see `autoencoder_weights`. Either naming
    of weight norm fits. The module keeps its precision and device.
    """
    path, expected = Path(path), module.state_dict()
    content = read_checkpoint(path)
    selected = select(content)
    found = _weight_norm_as(expected, content if selected is None else selected)
    if problems := misfits(expected, found):
        wrong = _other_kind(path, expected, found) or _other_size(expected, found)
        raise CheckpointError(
            f"{path}: {wrong or 'does not fit the model config: ' + '; '.join(problems)}"
        )
    module.load_state_dict(found)


def copy_state_dict(model: nn.Module, state_dict: StateDict) -> None:
    """Load into a three-track model in place of SAT's function, which skips what does not fit.

    A network that does not fit raises; other tensors that do not fit are logged and skipped.
    """
    expected = model.state_dict()
    found = _weight_norm_as(expected, state_dict)
    network = {key: value for key, value in expected.items() if key.startswith(OUR_NETWORK)}
    if any(key.startswith((_WRAPPED, _AVERAGED)) for key in found):
        raise CheckpointError(
            "a training checkpoint, expected a model: export it first with `python -m mge_plugin "
            "unwrap_model.py --model-config CONFIG --ckpt-path CHECKPOINT --name NAME "
            "--use-safetensors`, or continue that training with --ckpt-path"
        )
    problems = misfits(network, {k: v for k, v in found.items() if k.startswith(OUR_NETWORK)})
    if problems:
        kind = _kind_of(found)
        other = f"{kind.name}; {kind.advice}" if kind not in (None, OURS) else None
        wrong = other or _other_size(expected, found) or "; ".join(problems)
        raise CheckpointError(f"the checkpoint does not fit the model config: {wrong}")
    if problems := misfits(expected, found):
        logger.warning("tensors of the checkpoint that are not used: %s", "; ".join(problems))
    fitting = {k: v for k, v in found.items() if k in expected and v.shape == expected[k].shape}
    model.load_state_dict(expected | fitting)


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Missing, unexpected and misshapen tensors of `found`, one phrase for each kind."""
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


def _other_kind(path: Path, expected: Iterable[str], found: Iterable[str]) -> str | None:
    """What `found` is, if of another kind than `expected`, and what to do with it."""
    wanted, kind = _kind_of(expected), kind_of_file(path, found)
    if kind is None or kind is wanted:
        return None
    return f"{kind.name}, expected {wanted.name if wanted else 'another'}; {kind.advice}"


def _other_size(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Which sizes of a three-track network differ; None if none does or it is another network."""
    try:
        sizes, wanted = network_sizes(found), network_sizes(expected)
    except (KeyError, IndexError, ValueError):
        return None
    differ = [
        f"{key} {size}, the model config has {wanted[key]}"
        for key, size in sizes.items()
        if size != wanted[key]
    ]
    return f"a three-track model of another size: {'; '.join(differ)}" if differ else None


def network_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes in `model.diffusion.config` that a network's tensors show, under our names."""

    def shape(name: str) -> Any:
        return weights[OUR_NETWORK + name].shape

    embed_dim, io_channels = shape("transformer.project_in.weight")
    return {
        "io_channels": io_channels,
        "embed_dim": embed_dim,
        "depth": count_numbers(weights, rf"{re.escape(OUR_NETWORK)}transformer\.layers\.(\d+)\."),
        "global_cond_dim": shape("to_global_embed.1.weight")[1],
        "timestep_features_dim": 2 * shape("timestep_features.weight")[0],
    }


def count_numbers(weights: Iterable[str], pattern: str) -> int:
    """How many different numbers the names have where the pattern's group is."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


def weights_fingerprint(options: Mapping[str, Any], module: nn.Module) -> str:
    """A hash of options and of all of a module's weights, 32 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def write_weights(weights: Mapping[str, Tensor], out: Path, origin: str = "") -> Path:
    """Write a safetensors file, readable as the umask says; `origin` is kept in its metadata."""
    metadata = {"format": "pt"} | ({"origin": origin} if origin else {})
    with write_tensors(out) as partial:
        partial.touch()
        mode = S_IMODE(partial.stat().st_mode)  # save_file sets a mode of its own
        save_file(separate(weights), partial, metadata=metadata)
        partial.chmod(mode)
    return out


@contextmanager
def write_tensors(out: Path) -> Iterator[Path]:
    """`written_whole`; what the writers of tensors raise on a full disk becomes an OSError."""
    with written_whole(out) as partial:
        try:
            yield partial
        except (SafetensorError, RuntimeError) as error:
            free = disk_usage(out.parent).free / 1e9
            raise OSError(
                f"{out}: not written, {str(error).strip().splitlines()[0]}; "
                f"is the disk full? {free:.1f} GB are free"
            ) from error


def separate(weights: Mapping[str, Tensor]) -> StateDict:
    """Each tensor in memory of its own on the CPU, copied only where it shares or spans more."""
    seen: set[int] = set()
    apart = {}
    for key, tensor in weights.items():
        whole = tensor.detach().cpu().contiguous()
        memory = whole.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != whole.nbytes:
            whole = whole.clone()
        seen.add(memory.data_ptr())
        apart[key] = whole
    return apart
