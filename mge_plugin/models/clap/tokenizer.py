"""RoBERTa's tokenizer from a local folder, as laion-clap uses it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_TOKENS = 77


class ClapTokenizer:
    """Texts to token ids and attention masks, padded to 77 tokens."""

    def __init__(self, folder: str, vocabulary: int) -> None:
        self.folder = folder
        self.tokenize = _open(folder)
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

    def check(self, probes: Sequence[str]) -> None:
        """Raise if different texts become the same ids, or words are cut into letters."""
        tokens = self(probes)
        if len(tokens["input_ids"].unique(dim=0)) < len(probes):
            raise ValueError(
                f"{self.folder}: different prompts become the same tokens, e.g. {probes[:2]}"
            )
        letters = sum(map(len, probes))
        if tokens["attention_mask"].sum() >= letters:
            raise ValueError(
                f"{self.folder}: the tokenizer cuts words into letters; is merges.txt incomplete?"
            )


def _open(folder: str) -> Any:
    from transformers import RobertaTokenizer

    try:
        return RobertaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason"
        raise ValueError(f"{folder}: not a readable tokenizer ({reason})") from error
