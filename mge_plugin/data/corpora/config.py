"""One corpus of a dataset config: an entry of `datasets`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mge_plugin.config import ConfigError, found

SHARES = ("test_share", "validation_share", "split_seed")
READER_OPTIONS: dict[str, tuple[str, ...]] = {  # by type: the options that it has beside the common
    "slakh": ("on_duplicates",),
    "musdb18": (),
    "musdb18_hq": (),
    "moisesdb": SHARES,
    "medleydb": ("metadata_path", "drop_bleed", *SHARES),
    "folder": ("audio_path", *SHARES),
}


@dataclass(frozen=True)
class CorpusConfig:
    """Where a corpus is, how it is read and which of its stems are used."""

    id: str
    path: str
    type: Literal["slakh", "musdb18", "musdb18_hq", "moisesdb", "medleydb", "folder"] = "slakh"
    split: str = "train"
    labels: tuple[str, ...] | None = None  # keep only stems so labelled (S_A of the paper)
    exclude_labels: tuple[str, ...] = ()  # keep all but these (S_B of the paper)
    label_map: dict[str, str] = field(default_factory=dict)  # the corpus's label -> words
    query_other: bool = False  # `other` may be the asked source too
    weight: float | None = None  # share of the items beside other corpora; by default its windows
    exclude: tuple[str, ...] = ()  # songs, "id", or stems, "id/stem", that are left out
    mixture_only: bool = False  # the sum of a song's stems is all that is used
    follow_links: bool = False  # use files behind links that lead out of the corpus
    # Options of one reader, by READER_OPTIONS; None is its own default.
    on_duplicates: Literal["warn", "leave_out", "error"] | None = None  # of songs in other splits
    metadata_path: str | None = None  # folder of *_METADATA.yaml
    drop_bleed: bool | None = None  # leave out songs whose microphones heard other instruments
    audio_path: str | None = None  # folder that a manifest's paths start from
    test_share: float | None = None  # share of songs drawn for the test split, 0 to 1
    validation_share: float | None = None
    split_seed: int | None = None  # of that draw

    def __post_init__(self) -> None:
        if problems := [*self._foreign_options(), *self._wrong_values()]:
            raise ConfigError(*problems)

    def _foreign_options(self) -> list[str]:
        """Options given that another reader has, but not this one."""
        own = READER_OPTIONS.get(self.type, ())
        names = {name for options in READER_OPTIONS.values() for name in options}
        return [
            f"{name}: an option of type {_types_with(name)}, not of {self.type!r}"
            for name in sorted(names.difference(own))
            if getattr(self, name) is not None
        ]

    def _wrong_values(self) -> list[str]:
        problems = []
        if self.labels is not None and self.exclude_labels:
            problems.append("labels and exclude_labels: expected one of them, found both")
        if self.weight is not None and self.weight <= 0:
            problems.append(f"weight: expected a number above 0, found {found(self.weight)}")
        if wrong := {k: v for k, v in self.label_map.items() if not isinstance(v, str)}:
            problems.append(f"label_map: expected words for each label, found {found(wrong)}")
        shares = [self.test_share or 0, self.validation_share or 0]
        if min(shares) < 0 or sum(shares) > 1:
            problems.append(f"test_share and validation_share: expected 0 to 1, found {shares}")
        return problems


def _types_with(option: str) -> str:
    names = [repr(name) for name, options in READER_OPTIONS.items() if option in options]
    return " or ".join(names)


def check_weights(corpora: tuple[Any, ...]) -> list[str]:
    """All corpora have a weight or none has: beside a number of windows it would mean nothing."""
    without = [corpus.id for corpus in corpora if corpus.weight is None]
    if 0 < len(without) < len(corpora):
        return [f"weight: expected for every corpus or for none, missing for {', '.join(without)}"]
    return []
