"""Embeddings of texts, by text: in memory, and on disk if the config names a folder."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mge_plugin.files import checkpoint_fingerprint, write_file
from mge_plugin.models.clap.config import ClapConfig


class TextCache:
    """A mapping text -> embedding (512,); what is on disk is read at the first question."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.embeddings: dict[str, Tensor] = {}

    def __contains__(self, text: str) -> bool:
        if text not in self.embeddings and (embedding := self._read(text)) is not None:
            self.embeddings[text] = embedding
        return text in self.embeddings

    def __getitem__(self, text: str) -> Tensor:
        return self.embeddings[text]

    def add(self, texts: Sequence[str], embeddings: Tensor) -> None:
        """Keep (text, 512); each file is written whole, so two processes may do it at once."""
        for text, embedding in zip(texts, embeddings, strict=True):
            self.embeddings[text] = embedding
            if self.folder is not None:
                write_file(self._path(text), save({"embedding": embedding.contiguous()}))

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def _read(self, text: str) -> Tensor | None:
        """From disk; a file that cannot be read is made anew."""
        if self.folder is None or not self._path(text).is_file():
            return None
        try:
            return load_file(self._path(text))["embedding"]
        except (SafetensorError, KeyError):
            return None


@functools.lru_cache(maxsize=4)
def shared_texts(config: ClapConfig) -> TextCache:
    """The process's texts of a config; its folder has a subfolder for each checkpoint."""
    if config.cache_dir is None:
        return TextCache()
    config.check_files()
    return TextCache(Path(config.cache_dir) / checkpoint_fingerprint(Path(config.ckpt_path))[:16])
