"""What is asked in words and by audio examples, before anything is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mge_plugin.cli.options import PromptOptions
from mge_plugin.cli.parsing import pairs
from mge_plugin.config import choose
from mge_plugin.data.audio import audio_info
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.inference.request import check_prompt

TRACKS = ("mixture", "submixture", "source")
PROMPTED = {  # by task: the track that its prompt is about
    "generate": "mixture",
    "extract": "source",
    "add": "source",
    "accompany": "submixture",
    "compose": "source",
    "replace": "source",
}
UNPROMPTED = ("generate", "accompany")  # what the model may be left alone with
SEVERAL = ("extract", "add", "compose")  # what takes more than one prompt


@dataclass(frozen=True)
class Words:
    """One prompt."""

    text: str | None = None
    example: Path | None = None
    text_weight: float = 0.5
    others: tuple[tuple[str, str], ...] = ()  # (track, text) of other tracks

    @property
    def name(self) -> str:
        """In a file's name."""
        if self.text is None and self.example is None:
            return "_".join(text for _, text in self.others)
        return self.text or self.example.stem

    def described(self) -> Any:
        """As plain data, an example by its content."""
        if self.example is None and not self.others:
            return self.text
        values: dict[str, Any] = {"text": self.text, **dict(self.others)}
        if self.example is not None:
            values |= {"example": checkpoint_fingerprint(self.example)}
            values |= {"text_weight": self.text_weight}
        return values

    def prompt(self, task: str, read: Callable[[Path], dict[str, Any]]) -> Any:
        """As the pipeline takes it; `read` gives an example's tensor and rate."""
        prompt: Any = self.text
        if self.example is not None:
            prompt = read(self.example)
            if self.text is not None:
                prompt = prompt | {"text": self.text, "text_weight": self.text_weight}
        if not self.others:
            return prompt
        return dict(self.others) | ({} if prompt is None else {PROMPTED[task]: prompt})


@dataclass(frozen=True)
class Asked:
    """What a command line asks of every song."""

    task: str
    texts: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()
    text_weight: float = 0.5
    others: tuple[tuple[str, str], ...] = ()
    negative: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"text_weight: expected 0 to 1, found {self.text_weight}")
        for text in self.texts:
            check_prompt(text)
        for track, _ in self.others:
            choose("--track-prompt", track, dict.fromkeys(TRACKS))
            if track == PROMPTED[self.task]:
                raise ValueError(f"--track-prompt {track}: that is what --prompt is for")

    @classmethod
    def of(cls, task: str, texts: Sequence[str | None], options: PromptOptions) -> "Asked":
        """From the options; examples are looked at."""
        for path in options.example:
            audio_info(path)
        others = pairs("--track-prompt", options.track_prompt, "TRACK=TEXT")
        return cls(
            task,
            tuple(text for text in texts if text is not None),
            tuple(options.example),
            options.text_weight,
            tuple(others.items()),
            options.negative,
        )

    def instead(self, texts: tuple[str, ...], negative: str | None) -> "Asked":
        """With the words that a line of a manifest has, if it has any."""
        negative = self.negative if negative is None else negative
        return replace(self, texts=texts or self.texts, negative=negative)

    def prompts(self) -> tuple[Words, ...]:
        """Texts and examples in pairs, or one of them alone."""
        count = max(len(self.texts), len(self.examples))
        if self.texts and self.examples and len(self.texts) != len(self.examples):
            raise ValueError(
                f"--example: expected one for each of {len(self.texts)} prompts, "
                f"found {len(self.examples)}"
            )
        if count > 1 and self.task not in SEVERAL:
            raise ValueError(f"{self.task}: expected one prompt, found {count}")
        if count == 0 and self.task in UNPROMPTED:
            return (Words(others=self.others),)
        if count == 0:
            raise ValueError(f"{self.task}: expected --prompt or --example, found none")
        if self.text_weight != 0.5 and not (self.texts and self.examples):
            raise ValueError("--text-weight: weighs --prompt against --example, found one of them")
        texts, examples = self.texts or [None] * count, self.examples or [None] * count
        return tuple(
            Words(text, example, self.text_weight, self.others)
            for text, example in zip(texts, examples, strict=True)
        )
