"""CLAP score: the prompt's embedding and the estimate's, by whatever the model hears with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mge_plugin.data.triplets import Format
from mge_plugin.evaluation.metrics import ClapScore, ConditionerEmbedding, hearing
from mge_plugin.evaluation.run import Evaluation, collect, score
from mge_plugin.evaluation.segments import Estimate, draw_segments
from mge_plugin.evaluation.systems import Silence
from tests.inference.conftest import RATE, WINDOW

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


class Ears:
    """Hears level and length; every text is one direction. Notes what it was asked."""

    def __init__(self):
        self.asked, self.heard = [], []

    def embed_text(self, texts):
        self.asked += texts
        return torch.tensor([[0.0, 2.0]])

    def embed_audio(self, examples):
        self.heard += examples
        return torch.stack([torch.tensor([1.0, float(a.abs().max())]) for a, _ in examples])


@pytest.fixture
def clap():
    return ClapScore(ConditionerEmbedding(Ears(), "Ears", "conditioner prompt"))


def test_it_is_the_cosine_of_the_prompt_and_what_was_made(heard, clap):
    made = np.full((1, 8000), 1.0, np.float32)
    found = score(heard, Estimate(made), clap)
    assert found["clap_score"] == pytest.approx(0.5**0.5)
    assert score(heard, Estimate(0 * made), clap)["clap_score"] == 0.0, "silence counts too"
    ears = clap.ears.embedder
    assert ears.asked[0] == "The sound of the bass"
    audio, rate = ears.heard[0]
    np.testing.assert_array_equal(audio, made)
    assert rate == RATE and clap.name == "Ears"


@pytest.mark.parametrize("task", ["generate", "extract", "add", "compose"])
def test_every_task_has_it_and_its_prompt_names_all_that_is_wanted(heard, clap, task):
    both = replace(heard, segment=replace(heard.segment, task=task, wanted=("bass", "piano")))
    assert "clap_score" in score(both, Estimate(heard.truth), clap)
    assert clap.ears.embedder.asked == ["The sound of the bass and piano"]
    assert "clap_score" not in score(both, Estimate(heard.truth))


def test_what_is_absent_has_none(heard, clap):
    absent = replace(heard, segment=replace(heard.segment, absent=True))
    assert score(absent, Estimate(heard.truth), clap).keys() == {"silence_error_db"}


def test_a_model_that_reads_only_has_no_ears(model):
    assert hearing(model, "cpu") is None
    assert hearing(None, "cpu") is None


def test_what_was_scored_without_it_or_by_another_key_is_scored_anew(corpus, clap, tmp_path):
    segments = draw_segments("extract", [corpus], Format(RATE, WINDOW, 1), ("bass",), 2, 0)
    present = [s for s in segments if not s.absent]

    def run(system, ears):
        evaluation = Evaluation(tmp_path, present, [corpus], 1, clap=ears)
        evaluation.run([system], "key")
        return len((tmp_path / "scores" / "silence.rank0.jsonl").read_text().splitlines())

    assert [run(Silence(), None), run(Silence(), None)] == [2, 2]
    assert [run(Silence(), clap), run(Silence(), clap)] == [4, 4]
    assert all(s.scores["clap_score"] == 0.0 for s in collect(tmp_path, present))
    other = Silence()
    other.key = "another"
    assert [run(other, clap), run(other, clap)] == [6, 6]
    assert run(Silence(), clap) == 8  # the kept audio is the other's


@pytest.mark.usefixtures("ears")
def test_it_bears_the_embedders_name_wherever_it_is_shown(evaluate, tmp_path):
    code, out, err = evaluate("extract", "--segments", 2, labels=("bass", "theremin"))
    assert code == 0, err
    assert "clap_score by TextAudio    model " in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    cells = summary["means"]["clap_score"]["model"]
    assert cells.keys() == {"bass", "Avg."} and cells["bass"]["count"] == 2
    assert -1 <= cells["bass"]["mean"] <= 1
    assert summary["facts"]["CLAP score"] == "by TextAudio"
    assert "CLAP score, by TextAudio" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.usefixtures("ears")
def test_of_add_the_made_part_alone_is_heard(evaluate, tmp_path):
    """Adding nothing scores as silence does, whatever was given."""
    options = ["--segments", 3, "--embedding", "none", "--seconds", 1]
    assert evaluate("add", *options, labels=("bass", "drums"))[0] == 0
    lines = (tmp_path / "out" / "scores" / "silence.rank0.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    bass = {e["scores"]["clap_score"] for e in entries if "/bass/" in e["segment"]}
    assert len(bass) == 1
