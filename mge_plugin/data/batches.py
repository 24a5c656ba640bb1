"""Items by number, and SAT's batches of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mge_plugin.config import ConfigError
from mge_plugin.data.order import SongOrder
from mge_plugin.data.sampler import ItemSampler
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import Track

logger = logging.getLogger(__name__)

MAX_BROKEN = 20  # songs in a row that cannot be read before giving up

Item = tuple[Tensor, dict[str, Any]]


class SongItems(Dataset):
    """Item number -> what is drawn of a song.

    An item number is `epoch * len + index` (see ItemSampler); with the seed it alone decides the
    song and all that is drawn of it, on any machine and with any number of workers. Where the song
    cannot be read another stands in.
    """

    unreadable: type[ValueError]  # what `draw` raises of a broken file; it has a `path`
    pieces: str  # what is read, in words
    stand_in: str  # what is taken instead, in words

    def __init__(self, songs: Sequence[Any], order: SongOrder, seed: int, size: int | None) -> None:
        self.songs = songs
        self.order = order
        self.seed = seed
        self.size = size or len(order)
        self.broken: dict[Path | None, str] = {}  # path -> what is wrong with it

    def __len__(self) -> int:
        return self.size

    def draw(self, number: int, rng: np.random.Generator) -> Any:
        """Read something of the song with this number."""
        raise NotImplementedError

    def drawn(self, item: int) -> tuple[Any, np.random.Generator]:
        """What is drawn for an item, and the generator that goes on deciding about it."""
        for attempt, number in enumerate(self._candidates(item)):
            rng = np.random.default_rng([self.seed, item, attempt])
            try:
                return self.draw(number, rng), rng
            except self.unreadable as error:
                self._report(error)
        examples = "; ".join(list(self.broken.values())[:3])
        raise self.unreadable(
            f"{MAX_BROKEN} {self.pieces} in a row cannot be read, e.g. {examples}"
        )

    def _candidates(self, item: int) -> Iterator[int]:
        """The number of the item's song, then of those that stand in for it if it is broken."""
        yield self.order.song(item)
        rng = np.random.default_rng([self.seed, item, MAX_BROKEN])
        yield from np.resize(rng.permutation(len(self.songs)), MAX_BROKEN - 1)

    def _report(self, error: Any) -> None:
        """Say once a file (and process) what is broken."""
        if error.path not in self.broken:
            self.broken[error.path] = str(error)
            logger.warning("left out, another %s stands in: %s", self.stand_in, error)


def order_of(
    windows: Sequence[np.ndarray], weights: Sequence[float | None], seed: int
) -> SongOrder:
    """The order of songs by windows, (songs,) for each corpus, and by weights if all have one."""
    return SongOrder(windows, None if None in weights else weights, seed)


def loss_mask(mixture_only: bool) -> list[int]:
    """The tracks that count in the loss: of a mixture alone the source is not known."""
    return [1, 1, 0] if mixture_only else [1, 1, 1]


def label_prompts(labels: Mapping[Track, Sequence[str]], template: str) -> dict[str, str]:
    """Each track's prompt, of those that have labels."""
    return {track.label: label_prompt(names, template) for track, names in labels.items() if names}


def collate(items: list[Item]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Stacked reals (batch, 3 * channels, samples or frames) and a list of metadata."""
    reals, metadata = zip(*items, strict=True)
    return torch.stack(reals), list(metadata)


def item_loader(
    dataset: Dataset,
    batch_size: int,
    seconds: float,
    seed: int,
    shuffle: bool = True,
    num_workers: int = 0,
    drop_last: bool = True,
) -> DataLoader:
    """A loader of a dataset of windows, `seconds` long, whose item numbers decide all.

    One without a batch raises ConfigError.
    """
    if drop_last and len(dataset) < batch_size:
        raise ConfigError(
            f"dataset config: {len(dataset)} windows of {seconds:.2f} s are fewer than one batch "
            f"of {batch_size}; set epoch_items or a smaller batch size"
        )
    return DataLoader(
        dataset,
        batch_size,
        sampler=ItemSampler(dataset, shuffle, seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        collate_fn=collate,
    )
