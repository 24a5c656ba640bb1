"""A text embedding that needs no weights: for smoke tests and demos only."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STOP_WORDS = {
    "a", "an", "and", "by", "from", "in", "of", "on", "or", "some", "sound", "sounds", "the",
    "this", "to", "with",
}  # fmt: skip


class HashedWords:
    """A deterministic embedding of a prompt's words.

    Each word has a fixed random direction, drawn from a hash of it. A text is the sum of its words'
    directions scaled to length 1, or zeros without a word. Synonyms are unrelated; no audio.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(texts, width)."""
        return torch.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Tensor:
        words = re.findall(r"\w+", text.lower())
        words = [word for word in words if word not in STOP_WORDS] or words
        if not words:
            return torch.zeros(self.width)
        total = torch.from_numpy(sum(self._direction(word) for word in words))
        return torch.nn.functional.normalize(total.float(), dim=0)

    def _direction(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.width)
