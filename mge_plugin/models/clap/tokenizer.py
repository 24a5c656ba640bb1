"""RoBERTa's tokenizer from a local folder, as laion-clap uses it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_TOKENS = 77


class ClapTokenizer:
    """Texts to token ids and attention masks, padded to 77 tokens."""

    def __init__(self, folder: str, vocabulary: int) -> None:
        from transformers import RobertaTokenizer

        self.tokenize: Any = RobertaTokenizer.from_pretrained(folder, local_files_only=True)
        found = len(self.tokenize)
        if found != vocabulary:
            names = sorted(path.name for path in Path(folder).iterdir())[:8]
            raise ValueError(
                f"{folder}: the tokenizer has {found} tokens, but the CLAP checkpoint's text "
                f"branch has {vocabulary}; expected the whole folder of roberta-base, found {names}"
            )

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, each (text, 77)."""
        tokens = self.tokenize(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}
