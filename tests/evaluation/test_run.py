"""Scores, their files and the page: with fake systems, then `mge evaluate` on a tiny model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mge_plugin.data.audio import read_audio, write_wav
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation.metrics import ConditionerEmbedding, _MelStatistics
from mge_plugin.evaluation.report import cell, table, write_report
from mge_plugin.evaluation.run import (
    RATIO_DB,
    Evaluation,
    Scored,
    audio_path,
    collect,
    fad_table,
    score,
)
from mge_plugin.evaluation.segments import Estimate, Segment, draw_segments, load_segments
from mge_plugin.evaluation.systems import Silence
from tests.inference.conftest import RATE, WINDOW

LOWEST, HIGHEST = RATIO_DB


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{path}: {constant}")

    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(line, parse_constant=refuse) for line in lines]


# Scores of one estimate


def test_the_truth_is_perfect(excerpt):
    found = score(excerpt, Estimate(excerpt.truth))
    assert found["log_mel_l1"] == found["spectral_distance"] == 0.0
    assert found["si_sdr"] == found["sdr"] == found["si_sar"] == HIGHEST


def test_a_silent_estimate_is_the_worst_and_a_silent_truth_has_no_ratio(excerpt):
    found = score(excerpt, Estimate(0 * excerpt.truth))
    assert (found["si_sdr"], found["si_sar"], found["sdr"]) == (LOWEST, LOWEST, 0.0)
    silent = replace(excerpt, truth=0 * excerpt.truth)
    assert score(silent, Estimate(excerpt.mixture))["si_sdr"] is None


def test_the_silence_error_is_a_level_against_the_mixture(excerpt):
    absent = replace(excerpt.segment, absent=True)
    quiet = replace(excerpt, segment=absent, truth=0 * excerpt.truth)
    found = score(quiet, Estimate(excerpt.mixture / 10, excerpt.mixture))
    assert found == {"silence_error_db": pytest.approx(-20.0)}
    assert score(quiet, Estimate(quiet.truth))["silence_error_db"] < -80


class Embedder:
    """Embeds audio by its peak; every text is one direction. Keeps what it was given."""

    def __init__(self):
        self.texts, self.examples = [], []

    def embed_text(self, texts):
        self.texts += texts
        return torch.tensor([[0.0, 2.0]])

    def embed_audio(self, examples):
        self.examples += examples
        return torch.stack([torch.tensor([1.0, float(a.abs().max())]) for a, _ in examples])


@pytest.fixture
def clap():
    return ConditionerEmbedding(Embedder(), "Embedder", "conditioner prompt")


@pytest.mark.parametrize("task", ["generate", "extract", "add", "compose"])
def test_the_clap_score_is_the_cosine_of_the_prompt_and_the_estimate(excerpt, clap, task):
    both = replace(excerpt, segment=replace(excerpt.segment, task=task, wanted=("bass", "piano")))
    made = np.full((1, 8000), 1.0, np.float32)
    assert score(both, Estimate(made), clap)["clap_score"] == pytest.approx(0.5**0.5)
    assert score(both, Estimate(0 * made), clap)["clap_score"] == 0.0, "silence counts too"
    assert clap.embedder.texts[0] == "The sound of the bass and piano"
    audio, rate = clap.embedder.examples[0]
    np.testing.assert_array_equal(audio, made)
    assert rate == RATE
    absent = replace(both, segment=replace(both.segment, absent=True))
    assert "clap_score" not in score(absent, Estimate(made), clap)


def test_a_conditioner_of_texts_only_has_no_embedding_of_audio(model):
    assert ConditionerEmbedding.of(model, "cpu") is None


# Files of scores


@pytest.fixture
def present(corpus):
    segments = draw_segments("extract", [corpus], Format(RATE, WINDOW, 1), ("bass",), 3, 0)
    return [s for s in segments if not s.absent]


def lines(folder, system="silence"):
    return (folder / "scores" / f"{system}.rank0.jsonl").read_text().splitlines()


def test_other_settings_score_again_and_equal_ones_do_not(corpus, present, clap, tmp_path):
    def run(system, clap=None):
        Evaluation(tmp_path, present, [corpus], 1, clap=clap).run([system], "key")
        return len(lines(tmp_path))

    other = Silence()
    other.key = "other weights"
    runs = [(Silence(),), (Silence(),), (Silence(), clap), (Silence(), clap), (other, clap)]
    assert [run(*options) for options in runs] == [3, 3, 6, 6, 9]
    assert run(Silence(), clap) == 12, "the saved audio is the other's"
    assert all(s.scores["clap_score"] == 0.0 for s in collect(tmp_path, present))


@pytest.mark.parametrize("tail", ["\n", "\n\n  \n", '{"key": "x", "segm', '{"key": NaN}\n', "5\n"])
def test_a_broken_line_is_skipped_and_its_segment_scored_again(corpus, present, tmp_path, tail):
    evaluation = Evaluation(tmp_path, present, [corpus], 1)
    evaluation.run([Silence()], "key")
    path = tmp_path / "scores" / "silence.rank0.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-1]) + tail)
    evaluation.run([Silence()], "key")
    assert lines(tmp_path)[-1] == whole[-1].strip()
    assert len(collect(tmp_path, present)) == 3


class Broken:
    """Fails by an error, by NaN, by silence; the last estimate is the truth."""

    name = "broken"

    def estimate(self, excerpts):
        return [self._estimate(e) for e in excerpts]

    def _estimate(self, excerpt):
        number = int(excerpt.segment.id[-1])
        if number == 0:
            raise ValueError("no such file")
        return Estimate([None, np.nan, 0.0, 1.0][number] * excerpt.truth)


def test_failed_and_silent_estimates_are_counted_and_every_json_is_strict(corpus, tmp_path):
    form = Format(RATE, WINDOW, 1)
    segments = draw_segments("extract", [corpus], form, ("bass",), 4, 0)
    Evaluation(tmp_path, segments, [corpus], 1).run([Broken(), Silence()], "key")
    scored = collect(tmp_path, segments)
    page = write_report(tmp_path, scored, {}, {}).read_text()
    for path in tmp_path.rglob("*.json*"):
        strict(path)
    (summary,) = strict(tmp_path / "summary.json")
    broken, silence = (summary["means"]["si_sdr"][name]["bass"] for name in ("broken", "silence"))
    assert broken["failed"] == 2 and broken["count"] == 2 and broken["silent"] == 1
    assert broken["mean"] == pytest.approx((LOWEST + HIGHEST) / 2)
    assert (silence["mean"], silence["count"], silence["silent"]) == (LOWEST, 4, 4)
    for words in ("no such file", "NaN", "2 estimates are missing", "5 estimates are silent"):
        assert words in page


def test_fad_of_a_single_estimate_is_left_out_after_failures(corpus, present, tmp_path):
    Evaluation(tmp_path, present, [corpus], 1).run([Silence()], "key")
    scored = collect(tmp_path, present)
    assert "silence" in fad_table(tmp_path, scored, _MelStatistics())
    assert fad_table(tmp_path, scored[:1], _MelStatistics()) == {}


# Tables


def scored(system, group, song, value, failed=None):
    segment = Segment(f"{group}{song}", "extract", "x", song, 0, 1, RATE, (group,))
    return Scored(system, segment, {} if failed else {"log_mel_l1": value}, failed)


def test_a_table_has_means_by_label_and_the_mean_of_means():
    entries = [scored("model", "bass", str(i), float(i)) for i in range(3)]
    entries += [scored("model", "drums", "0", 7.0), scored("model", "drums", "1", 0, "lost")]
    cells = table(entries, "log_mel_l1")["model"]
    assert (cells["bass"].mean, cells["bass"].count) == (1.0, 3)
    assert (cells["drums"].mean, cells["drums"].failed) == (7.0, 1)
    assert cells["Avg."].mean == 4.0 and cells["Avg."].count == 4
    assert cell(entries[3:4], "log_mel_l1").low != cell(entries[3:4], "log_mel_l1").low, "NaN"


# The command


def test_extract_is_scored_beside_floors_and_ceilings(evaluate, tmp_path):
    labels = ("bass", "drums", "theremin")  # no song has the last
    code, out, err = evaluate("extract", "--segments", 3, "--batch", 2, labels=labels)
    assert code == 0, err
    assert f"Wrote {tmp_path / 'out' / 'index.html'}" in out
    (summary,) = strict(tmp_path / "out" / "summary.json")
    means = summary["means"]
    systems = {"model", "mixture", "silence", "round_trip", "ideal_ratio_mask"}
    assert means["log_mel_l1"].keys() == means["si_sar"].keys() == systems
    assert means["silence_error_db"]["silence"]["Avg."]["mean"] < -80
    assert means["mixture_consistency_db"].keys() == {"model", "round_trip"}
    assert "clap_score" not in means, "its conditioner embeds texts only"
    cells = means["log_mel_l1"]["model"]
    assert cells.keys() == {"bass", "drums", "Avg."} and cells["bass"]["count"] == 3
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    segments = load_segments(tmp_path / "out" / "segments.json")
    assert len(rows) == 5 * len(segments)
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("Log-Mel L1", "bass, n = 3", "Best", "Worst", "floor of 1e-5"):
        assert words in page

    for segment in segments[:-1]:
        write_wav(tmp_path / f"theirs/{segment.id}.wav", np.zeros((1, WINDOW), np.float32), RATE)
    options = ["--segments-file", tmp_path / "out" / "segments.json"]
    options += ["--estimates", tmp_path / "theirs"]
    assert evaluate("extract", *options, out="other")[0] == 0
    (summary,) = strict(tmp_path / "other" / "summary.json")
    means = summary["means"]["log_mel_l1"]
    assert means["theirs"]["bass"]["mean"] == pytest.approx(means["silence"]["bass"]["mean"])
    page = (tmp_path / "other" / "index.html").read_text()
    assert "1 estimates are missing" in page and f"{segments[-1].id}" in page
    code, _, err = evaluate("add", *options, out="add")
    assert code == 1 and "segments.json: task" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("task", "options"),
    [("generate", ["--unconditional"]), ("compose", []), ("add", []), ("add", ["--given", "rest"])],
)
@pytest.mark.usefixtures("embedder")
def test_music_without_a_truth_is_scored_by_fad(evaluate, tmp_path, task, options):
    options = ["--segments", 3, "--embedding", "mel", "--seconds", 1, *options]
    code, out, err = evaluate(task, *options)
    assert code == 0, err
    (summary,) = strict(tmp_path / "out" / "summary.json")
    fad = summary["fad"]
    assert {"model", "round_trip"} <= fad.keys()
    for cells in fad.values():
        for found in cells.values():
            assert found["fad"] >= 0 and found["embedding"] == "mel" and found["dimension"] == 32
    if "--unconditional" in options:
        assert "clap_score" not in summary["means"] and summary["facts"]["Prompt"] == "none"
        return
    assert "clap_score by TextAudio    model " in out
    assert summary["facts"]["CLAP score"] == "by TextAudio"
    assert "CLAP score, by TextAudio" in (tmp_path / "out" / "index.html").read_text()
    if task == "add":
        assert {"silence", "random_stem"} <= fad.keys()
        segment = next(s for s in load_segments(tmp_path / "out" / "segments.json"))
        given = read_audio(audio_path(tmp_path / "out", "silence", segment))[0]
        both = read_audio(audio_path(tmp_path / "out", "reference", segment))[0]
        assert abs(both - given).max() > 1e-4, "sub-FAD: the given stems against the mixture"
        by_bass = {s["scores"]["clap_score"] for s in map(json.loads, lines(tmp_path / "out"))}
        assert len(by_bass) <= 2, "silence scores the same whatever was given, per label"


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("remove", [], "task"),
        ("generate", ["--embedding", "x"], "embedding"),
        ("generate", ["--embedding", "vggish"], "vggish"),
        ("extract", ["--sampler", "dddim"], "sampler"),
        ("extract", ["--segments-file", "absent.json"], "absent.json"),
        ("extract", ["--unconditional"], "unconditional"),
        ("add", ["--demucs", "htdemucs"], "demucs"),
        ("add", ["--given", "some"], "given"),
        ("add", ["--segments", 1], "--segments"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence_before_any_work(
    evaluate, tmp_path, task, options, named
):
    code, _, err = evaluate(task, "--segments", 2, *options)
    assert code == 1 and named in err.splitlines()[-1]
    assert not (tmp_path / "out" / "scores").exists()
