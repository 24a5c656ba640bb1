"""FAD of kept audio: each system's estimates against the references, group by group.

Embeddings are made anew from the files every time: nothing is kept by a file's name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mge_plugin.data.audio import read_audio
from mge_plugin.evaluation.embeddings import Embedding
from mge_plugin.evaluation.fad import Gaussian, frechet_distance
from mge_plugin.evaluation.run import REFERENCE, Scored, audio_path
from mge_plugin.evaluation.segments import Segment


def fad_table(
    out: Path, scored: Sequence[Scored], embedding: Embedding
) -> dict[str, dict[str, dict[str, Any]]]:
    """By system and group: the distance, items, dimension, ranks and the embedding's facts."""
    groups: dict[tuple[str, str], list[Segment]] = {}
    for s in scored:
        if s.failed is None and not s.segment.absent:
            groups.setdefault((s.system, s.segment.group), []).append(s.segment)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for (system, group), segments in tqdm(groups.items(), desc="FAD", unit="set"):
        if len(segments) < 2:
            raise ValueError(f"FAD: {system}, {group}: expected 2 segments or more, found 1")
        pair = [_gaussian(out, name, segments, embedding) for name in (system, REFERENCE)]
        found = frechet_distance(*pair)
        table.setdefault(system, {})[group] = found.described() | dict(embedding.told)
    return table


def _gaussian(
    out: Path, system: str, segments: Sequence[Segment], embedding: Embedding
) -> Gaussian:
    gaussian = None
    for segment in segments:
        embedded = embedding.embed(*read_audio(audio_path(out, system, segment)))
        gaussian = gaussian or Gaussian(embedded.shape[1])
        gaussian.add(embedded)
    return gaussian
