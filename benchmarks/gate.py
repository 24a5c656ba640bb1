"""What the gate's threshold shuts: windows with the instrument asked for, and windows without it.

python benchmarks/gate.py --model DIR --results DIR
    of model.json and model.safetensors; of `mge evaluate --task extract` with that model

Every extracted window gets its presence, as the gate would score it. A good threshold leaves nearly
all windows open that have the instrument and shuts many that have not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ablations import markdown

from mge_plugin.data.audio import read_audio
from mge_plugin.evaluation.run import audio_path
from mge_plugin.evaluation.segments import Segment, load_segments
from mge_plugin.inference.pipeline import Pipeline, load
from mge_plugin.inference.presence import presence
from mge_plugin.prompts import label_prompt, track_prompts
from mge_plugin.tracks import TASKS, Track

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def score(pipeline: Pipeline, results: Path, segment: Segment) -> float:
    """Presence of what the model extracted from a segment, 0 to 1."""
    source, mixture = (
        read_audio(audio_path(results, system, segment))[0] for system in ("model", "mixture")
    )
    (label,) = segment.wanted
    similarity = pipeline.similarity(
        TASKS["extract"], track_prompts(label_prompt(label), Track.SOURCE), source
    )
    return presence(source, mixture, segment.sample_rate, similarity).score


def shut(scores: Sequence[float], threshold: float) -> float:
    """Share of windows under a threshold, in per cent."""
    return 100 * float(np.mean(np.asarray(scores) < threshold))


def gate_table(segments: Sequence[Segment], scores: Sequence[float]) -> str:
    """Markdown: by threshold, the share of windows that is shut, of each label and of all."""
    labels = sorted({segment.wanted[0] for segment in segments})
    groups = [(label,) for label in labels] + [tuple(labels)]
    names = [*labels, "all"]
    columns = ["shut, %", *(f"{name}, {kind}" for name in names for kind in ("there", "absent"))]
    lines = []
    for threshold in THRESHOLDS:
        cells = []
        for group in groups:
            for absent in (False, True):
                asked = [
                    value
                    for segment, value in zip(segments, scores, strict=True)
                    if segment.wanted[0] in group and segment.absent is absent
                ]
                cells.append(f"{shut(asked, threshold):.0f}" if asked else "-")
        lines.append([f"{threshold:g}", *cells])
    return markdown(columns, lines)


def main(words: Sequence[str] | None = None) -> None:
    """Score every window, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--results", type=Path, required=True, help="folder of its evaluation")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(words)
    pipeline = load(asked.model / "model.json", asked.model / "model.safetensors", asked.device)
    segments = load_segments(asked.results / "segments.json")
    print(gate_table(segments, [score(pipeline, asked.results, s) for s in segments]))


if __name__ == "__main__":
    sys.exit(main())
