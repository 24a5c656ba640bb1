"""The table of what the gate shuts."""

import importlib
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.evaluation.run import audio_path
from mge_plugin.evaluation.segments import Segment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RATE = 16000


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gate")


def segment(name, label, absent=False):
    return Segment(
        f"extract/x/{label}/{name}", "extract", "x", "s", 0, 8000, RATE, (label,), (), absent
    )


def test_the_table_has_the_shares_under_each_threshold(gate):
    segments = [
        segment("0", "bass"),
        segment("1", "bass"),
        segment("2", "bass", absent=True),
        segment("3", "harp"),
    ]
    lines = gate.gate_table(segments, [0.9, 0.3, 0.04, 0.6]).splitlines()
    assert lines[0] == (
        "| shut, % | bass, there | bass, absent | harp, there | harp, absent "
        "| all, there | all, absent |"
    )
    assert "| 0.02 | 0 | 0 | 0 | - | 0 | 0 |" in lines
    assert "| 0.05 | 0 | 100 | 0 | - | 0 | 100 |" in lines
    assert "| 0.4 | 50 | 100 | 0 | - | 33 | 100 |" in lines


def test_scores_are_the_gates(gate, tmp_path):
    """The mixture itself is wholly there; silence and what is not heard in it are not."""
    heard = {"value": 0.5}
    pipeline = types.SimpleNamespace(similarity=lambda task, prompt, audio: heard["value"])
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
    same, silent = segment("0", "bass"), segment("1", "bass", absent=True)
    for one, source in ((same, noise), (silent, 0 * noise)):
        for system, audio in (("mixture", noise), ("model", source)):
            path = audio_path(tmp_path, system, one)
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, audio.T, RATE, subtype="FLOAT")
    assert gate.score(pipeline, tmp_path, same) == pytest.approx(1.0)
    assert gate.score(pipeline, tmp_path, silent) == 0.0
    heard["value"] = -0.1
    assert gate.score(pipeline, tmp_path, same) == 0.0
    assert gate.score(pipeline, tmp_path, replace(silent, absent=False)) == 0.0
