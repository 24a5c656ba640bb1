"""Splits of corpora: folders where there are any, else a draw by a seed."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from mge_plugin.config import ConfigError, choose
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.scan import Scanner

SPLITS = ("train", "validation", "test")


def split_folders(scanner: Scanner, split: str, names: tuple[str, ...] = SPLITS) -> dict[str, Path]:
    """The folders of the splits that there are; a corpus without any is all of it `split`."""
    present = {path.name: path for path in scanner.folders(scanner.root) if path.name in names}
    if not present:
        said = f"corpus without split folders, all of it is used as {split!r}"
        scanner.report.note(scanner.root, said)
        return {split: scanner.root}
    if split not in present:
        raise ConfigError(f"{scanner.root}: has no split {split!r}, found {sorted(present)}")
    return present


def draw_splits(
    ids: Iterable[str], config: CorpusConfig, test_share: float = 0.0
) -> dict[str, str]:
    """A split for every id: the test's share first, then the validation's, of a seeded order.

    The order is that of hashes, so a song more or less moves few of the others.
    """
    choose("split", config.split, dict.fromkeys(SPLITS))
    seed = config.split_seed or 0
    order = sorted(ids, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}:{name}")).digest())
    share = test_share if config.test_share is None else config.test_share
    test = round(share * len(order))
    validation = test + round((config.validation_share or 0.0) * len(order))
    splits = ["test"] * test + ["validation"] * (validation - test)
    splits += ["train"] * (len(order) - len(splits))
    if order and config.split not in splits:
        raise ConfigError(f"{config.path}: split {config.split!r} has no song, set its share")
    return dict(zip(order, splits, strict=False))
