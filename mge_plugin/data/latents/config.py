"""A dataset config of type `mge_latents`."""

from dataclasses import dataclass, field
from typing import Literal

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.config import check_weights
from mge_plugin.data.options import SourceConfig, item_problems
from mge_plugin.prompts import TEMPLATE, template_problems


@dataclass(frozen=True)
class LatentsEntry:
    """An entry of `datasets`: a folder that `mge encode` made, or shards of one."""

    id: str  # its name in messages
    path: str | None = None  # the folder
    shards: str | None = None  # or its shards: "latents/shards/train-{000000..000007}.tar", a URL
    split: str = "train"  # of the folder; shards are of one split
    corpora: tuple[str, ...] | None = None  # of the folder, only these ids
    exclude: tuple[str, ...] = ()  # songs of the folder, by id
    weight: float | None = None  # share of the items beside other folders; by default its windows

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    def _problems(self) -> list[str]:
        problems = []
        if (self.path is None) == (self.shards is None):
            problems.append("path and shards: expected one of them")
        if self.shards is not None and (self.corpora or self.exclude or self.weight is not None):
            problems.append("corpora, exclude, weight: not for shards")
        if self.weight is not None and self.weight <= 0:
            problems.append(f"weight: expected a number above 0, found {self.weight}")
        return problems


@dataclass(frozen=True)
class LatentsConfig:
    """A dataset config of type `mge_latents`."""

    dataset_type: Literal["mge_latents"]
    datasets: tuple[LatentsEntry, ...]  # folders, or shards
    seed: int = 0  # decides every choice
    silence_db: float = -60.0  # a source window below this RMS counts as silent, dBFS
    epoch_items: int | None = None  # items an epoch; by default one a window of every song
    drop_last: bool = True  # leave out a last batch that is not full
    posterior: Literal["draw", "mean"] = "draw"  # of a VAE: drawn for each item, or its mean
    source: SourceConfig = field(default_factory=SourceConfig)  # what is asked
    templates: tuple[str, ...] = (TEMPLATE,)  # of prompts, one drawn an item; paper: this one
    shuffle_buffer: int = 1000  # items of shards that are kept to be shuffled

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(*problems)

    @property
    def from_shards(self) -> bool:
        """Whether songs are streamed from shards."""
        return any(entry.shards is not None for entry in self.datasets)

    def _problems(self) -> list[str]:
        problems = [*check_weights(self.datasets), *template_problems(self.templates)]
        if not self.datasets:
            problems.append("datasets: expected one entry or more, found none")
        problems += item_problems(self.seed, self.epoch_items)
        if self.source.max_stems > 1 or self.source.groups:
            problems.append("source: latents are of single stems, max_stems and groups need audio")
        if self.shuffle_buffer < 1:
            problems.append(f"shuffle_buffer: expected 1 or more, found {self.shuffle_buffer}")
        if self.from_shards and any(entry.path is not None for entry in self.datasets):
            problems.append("datasets: folders and shards cannot be mixed")
        if self.from_shards and self.epoch_items is None:
            problems.append("epoch_items: needed with shards, which do not say how many they hold")
        return problems
