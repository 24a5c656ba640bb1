"""What a checkpoint is, told by its tensors' names or its first bytes, and what to do with it."""

import pickletools
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


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
KINDS = {
    r"(diffusion\.)?model_dit\.": PUBLISHED,
    r"(diffusion\.)?model\.model\..*\.to_modulations\.": OURS,
    r"(text|audio)_branch\.": CLAP,
    r"diffusion(_ema)?\.": OTHER_TRAINING,
    r"model\.model\.": OTHER_DIFFUSION,
    r"autoencoder(_ema)?\.": AUTOENCODER_TRAINING,
    r"pretransform\.model\.(encoder|decoder)\.": INNER_AUTOENCODER,
    r"(encoder|decoder)\.layers\.": AUTOENCODER,
}

LIGHTNING_MARK = "pytorch-lightning_version"  # a text beside the tensors

PAGE = "a web page, saved in place of the file; download it again"
TEXTS = {  # how texts begin that are saved in place of a checkpoint, in lower case
    b"<!doctype": PAGE,
    b"<html": PAGE,
    b"<head": PAGE,
    b"<!--": PAGE,
    b"<?xml": "a message in XML, as a server sends in place of a file; read it",
    b"{": "a text in JSON, a server's message or a model config; open it in an editor",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
}
GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"  # torch.save's files are zip archives with a file data.pkl
LARGEST_PICKLE = 2**26  # bytes


def kind_of(names: Iterable[str]) -> Kind | None:
    """What tensors of these names are; None if the names do not tell."""
    names = [name.removeprefix("module.") for name in names]
    for pattern, kind in KINDS.items():
        if any(re.match(pattern, name) for name in names):
            return kind
    return None


def kind_of_file(path: Path, names: Iterable[str]) -> Kind | None:
    """The same, or that Lightning wrote the file, if its tensors' names do not tell."""
    if kind := kind_of(names):
        return kind
    return LIGHTNING if LIGHTNING_MARK in texts_in(path) else None


def texts_in(path: Path) -> set[str]:
    """The texts of a file that torch.save wrote, among them its tensors' names; nothing is run."""
    if not zipfile.is_zipfile(path):
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [
                archive.read(entry)
                for entry in archive.infolist()
                if entry.filename.endswith("/data.pkl") and entry.file_size < LARGEST_PICKLE
            ]
        return {
            value
            for pickled in pickles
            for _, value, _ in pickletools.genops(pickled)
            if isinstance(value, str)
        }
    except (zipfile.BadZipFile, ValueError):  # damaged: no names then
        return set()


def told_by_bytes(path: Path) -> str | None:
    """What a file is that is no checkpoint, from its bytes, and what to do; None if unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(GZIP):
        return "a gzip archive; unpack it"
    if start.startswith(ZIP):
        return _told_by_archive(path)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\0" in text:
        return None
    return next((told for begins, told in TEXTS.items() if text.startswith(begins)), None)


def _told_by_archive(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "an incomplete download, its end is missing; fetch it again and compare its size"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"a zip archive of other files ({', '.join(names[:3]) or 'empty'}); unpack it"
