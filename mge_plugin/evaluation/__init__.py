"""Scores of a model beside floors, ceilings and other systems, by the paper's protocol.

The options are here, importable without torch; `protocol.evaluate` runs them.
"""

from dataclasses import MISSING, dataclass
from pathlib import Path

from mge_plugin.config import ConfigError, option

SCORED_TASKS = ("generate", "extract", "add", "compose")
EMBEDDINGS = ("vggish", "vggish-relu", "clap", "mel", "none")
_GIVEN = ("labels", "rest")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to score: segments, systems and FAD's embedding; the model and its sampling aside."""

    task: str = option(MISSING, "What the model does.", group="Segments", choices=SCORED_TASKS)
    dataset_config: Path = option(MISSING, "Dataset config of the test set.", group="Segments")
    out: Path = option(MISSING, "Folder for the results.")
    label: tuple[str, ...] = option(  # the default is the paper's S_A
        ("bass", "drums", "guitar", "piano"), "Target instrument; repeatable.", group="Segments"
    )
    segments: int = option(300, "Segments per label or combination.", group="Segments", low=1)
    segments_file: Path | None = option(
        None, "Score the segments of another run (its segments.json).", group="Segments"
    )
    seconds: float | None = option(
        None, "Length of a segment. Default: the model's window.", group="Segments", low=0.01
    )
    unconditional: bool = option(False, "generate: without prompts.", group="Segments")
    given: str = option(
        "labels",
        "add: what is given. labels: the other labels, for every split of the labels; rest: all "
        "other stems of the song.",
        group="Segments",
        choices=_GIVEN,
    )
    estimates: tuple[Path, ...] = option(
        (), "Folder of another system's estimates, by segment id; repeatable.", group="Systems"
    )
    demucs: str | None = option(
        None, "extract: also score a Demucs model, by name or folder.", group="Systems"
    )
    embedding: str = option(
        "mel",
        "FAD's embedding. vggish (needs weights): before its last ReLU; vggish-relu: after it; "
        "clap: the model's own.",
        group="FAD",
        choices=EMBEDDINGS,
    )
    embedding_weights: Path | None = option(None, "Weights of VGGish.", group="FAD")
    batch: int = option(8, "Segments per batch.", group="Machine", low=1)

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected one of {', '.join(known)}, found {value!r}"
            for name, value, known in (
                ("task", self.task, SCORED_TASKS),
                ("given", self.given, _GIVEN),
                ("embedding", self.embedding, EMBEDDINGS),
            )
            if value not in known
        ]
        problems += [
            f"{name}: only for task {task!r}, found {self.task!r}"
            for name, task in (("demucs", "extract"), ("unconditional", "generate"))
            if getattr(self, name) and self.task != task
        ]
        if problems:
            raise ConfigError(*problems)
