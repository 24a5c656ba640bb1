"""`config` of the conditioner type `mge_clap`, and whether its files are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mge_plugin.config import ConfigError

CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"  # the paper's, section E.3
CHECKPOINT_AT = f"https://huggingface.co/lukewys/laion_clap/resolve/main/{CHECKPOINT}"
WIDTH = 512  # of an embedding; no CLAP has another
TOKENIZER = "roberta-base"
TOKENIZER_AT = "https://huggingface.co/FacebookAI/roberta-base"
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
TOKENIZER_NEEDS = " or ".join(" with ".join(files) for files in TOKENIZER_FILES)


@dataclass(frozen=True)
class ClapConfig:
    """Where CLAP's files are; relative paths start at the working directory."""

    ckpt_path: str  # laion-clap's checkpoint file; paper: music_audioset_epoch_15_esc_90.14.pt
    tokenizer_path: str  # folder of RoBERTa's tokenizer; paper: roberta-base
    audio_model: str = "HTSAT-base"  # laion-clap's name of the audio branch; paper: HTSAT-base
    cache_dir: str | None = None  # keep embeddings of texts in this folder too

    def check_files(self) -> None:
        """Raise ConfigError if a file is not there."""
        if problems := list(self.problems()):
            raise ConfigError(*(f"conditioner mge_clap: {problem}" for problem in problems))

    def problems(self) -> Iterator[str]:
        """A sentence for each file that is not there."""
        ckpt, tokenizer = Path(self.ckpt_path), Path(self.tokenizer_path)
        if not ckpt.is_file():
            yield (
                f"ckpt_path: no such file {self.ckpt_path!r}; the paper's is {CHECKPOINT}, "
                f"published at {CHECKPOINT_AT}"
            )
        if not has_tokenizer(tokenizer):
            yield (
                f"tokenizer_path: {self.tokenizer_path!r} is not a folder with "
                f"{TOKENIZER_NEEDS}; {TOKENIZER} is published at {TOKENIZER_AT}"
            )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of RoBERTa's tokenizer, in either form."""
    return any(all((folder / name).is_file() for name in files) for files in TOKENIZER_FILES)
