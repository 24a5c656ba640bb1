"""`mge evaluate` from a corpus to a page, on a tiny model with random weights."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import read_audio, write_wav
from mge_plugin.data.triplets import Format
from mge_plugin.evaluation.report import cell, table
from mge_plugin.evaluation.run import Scored, audio_path, score
from mge_plugin.evaluation.segments import (
    Estimate,
    Heard,
    Segment,
    draw_segments,
    listen,
    load_segments,
    save_segments,
)
from mge_plugin.evaluation.systems import (
    Estimates,
    Mixture,
    Model,
    RatioMask,
    Silence,
    paper_sampling,
    segment_seed,
)
from tests.inference.conftest import RATE, WINDOW

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
FORM = Format(RATE, WINDOW, 1)


def some(task="extract", count=4, labels=("bass", "drums"), seed=0, corpora=()):
    return draw_segments(task, corpora, FORM, labels, count, seed)


def test_segments_sound_and_say_what_they_are(corpus):
    segments = some(corpora=[corpus])
    present = [s for s in segments if not s.absent]
    assert [s.group for s in present] == ["bass"] * 4 + ["drums"] * 4
    songs = {song.id: song for song in corpus.songs}
    for segment in present:
        heard = listen(segment, songs[segment.song], 1)
        assert heard.truth.shape == (1, WINDOW) and heard.truth.any()
        everything = sum(
            listen(replace(segment, wanted=(label,)), songs[segment.song], 1).truth
            for label in {stem.label for stem in songs[segment.song].stems}
        )
        np.testing.assert_allclose(heard.mixture, everything, atol=1e-5)
    assert len({s.id for s in segments}) == len(segments)


@pytest.mark.parametrize("task", ["generate", "compose"])
def test_music_from_nothing_is_one_set_whatever_it_is_played_by(corpus, task):
    segments = some(task, corpora=[corpus])
    assert {s.group for s in segments} == {corpus.config.id}


def test_the_same_seed_draws_the_same_segments_and_a_file_keeps_them(corpus, tmp_path):
    segments = some(corpora=[corpus])
    assert some(corpora=[corpus]) == segments
    assert some(corpora=[corpus], seed=1) != segments
    save_segments(segments, tmp_path / "segments.json")
    assert load_segments(tmp_path / "segments.json") == segments
    (tmp_path / "segments.json").write_text('{"format": 9}')
    with pytest.raises(ConfigError, match=r"segments.json: format: expected 1, found 9"):
        load_segments(tmp_path / "segments.json")


def test_absent_segments_are_of_songs_without_the_label(corpus):
    segments = some(count=8, labels=("theremin", "bass"), corpora=[corpus])
    absent = [s for s in segments if s.absent and s.group == "theremin"]
    assert len(absent) == 2
    songs = {song.id: song for song in corpus.songs}
    heard = listen(absent[0], songs[absent[0].song], 1)
    assert not heard.truth.any() and heard.mixture.any()


def test_imputation_splits_the_labels_in_every_way(corpus):
    """All but the empty and the whole set are wanted, the others given."""
    segments = some("add", 1, ("bass", "drums", "piano"), corpora=[corpus])
    assert {s.group for s in segments} <= {
        "bass",
        "drums",
        "piano",
        "bass+drums",
        "bass+piano",
        "drums+piano",
    }
    for segment in segments:
        assert set(segment.wanted) | set(segment.given) == {"bass", "drums", "piano"}


def test_no_segments_at_all_are_an_error(corpus):
    with pytest.raises(ConfigError, match="no segments: none of kazoo sounds in any song"):
        draw_segments("add", [corpus], FORM, ("kazoo",), 3, 0)


def test_the_truth_is_perfect_and_floors_are_what_they_say(heard):
    perfect = score(heard, Estimate(heard.truth))
    assert perfect["log_mel_l1"] == perfect["spectral_distance"] == 0.0
    assert perfect["si_sdr"] == perfect["sdr"] == math.inf
    (silence,), (mixture,) = Silence().estimate([heard]), Mixture().estimate([heard])
    assert not silence.audio.any()
    np.testing.assert_array_equal(mixture.audio, heard.mixture)
    (masked,) = RatioMask().estimate([heard])
    assert score(heard, masked)["si_sdr"] > score(heard, mixture)["si_sdr"] + 3


def test_the_silence_error_is_a_level_against_the_mixture(heard):
    absent = replace(heard.segment, absent=True)
    quiet = Heard(absent, heard.mixture, heard.given, 0 * heard.truth)
    found = score(quiet, Estimate(heard.mixture / 10, heard.mixture))
    assert found == {"silence_error_db": pytest.approx(-20.0)}
    assert score(quiet, Estimate(quiet.truth))["silence_error_db"] < -80


def test_anybodys_estimates_are_read_at_any_rate_and_missing_ones_are_named(heard, tmp_path):
    write_wav(tmp_path / "extract/x/bass/0000.wav", np.ones((2, 22050), np.float32), 44100)
    (found,) = Estimates(tmp_path).estimate([heard])
    assert found.audio.shape == (1, 8000)
    other = replace(heard.segment, id="extract/x/bass/0001")
    with pytest.raises(ValueError, match=r"0001: no estimate, neither .wav nor .flac"):
        Estimates(tmp_path).estimate([Heard(other, *[heard.truth] * 3)])


def test_of_nothing_that_can_be_read_there_are_no_estimates(pipeline):
    assert Model(pipeline, paper_sampling(2)).estimate([]) == []


def scored(system, group, song, value, failed=None):
    segment = Segment(f"{group}{song}", "extract", "x", song, 0, 1, RATE, (group,))
    return Scored(system, segment, {} if failed else {"log_mel_l1": value}, failed)


def test_a_table_has_the_mean_of_each_label_and_the_average_of_these():
    rows = [scored("a", "bass", "1", 1.0), scored("a", "bass", "2", 2.0)]
    rows += [scored("a", "drums", s, 4.0) for s in "12345678"]
    rows += [scored("a", "drums", "9", 0.0, failed="broken")]
    cells = table(rows, "log_mel_l1")["a"]
    assert cells["bass"].mean == 1.5 and cells["drums"].mean == 4.0
    assert cells["Avg."].mean == 2.75, "of labels, not of segments"
    assert cells["drums"].count == 8 and cells["drums"].failed == 1
    assert str(cell([], "log_mel_l1")) == "-"


def test_a_segments_noise_is_its_own():
    assert segment_seed("a", 0) == segment_seed("a", 0)
    assert len({segment_seed(i, s) for i in "abc" for s in range(3)}) == 9


def test_the_papers_sampling():
    sampling = paper_sampling()
    assert (sampling.steps, sampling.cfg_scale, sampling.sampler) == (250, 2.0, "ddim")
    assert (sampling.refine, sampling.gate) == ("none", False)


def test_extraction_is_judged_beside_floors_and_ceilings(evaluate, tmp_path):
    labels = ("bass", "drums", "theremin")  # which no song has
    code, out, err = evaluate("extract", "--segments", 3, "--batch", 2, labels=labels)
    assert code == 0, err
    assert f"Wrote {tmp_path / 'out' / 'index.html'}" in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    systems = {"model", "mixture", "silence", "round_trip", "ideal_ratio_mask"}
    assert summary["means"]["log_mel_l1"].keys() == systems
    assert summary["means"]["silence_error_db"]["silence"]["Avg."]["mean"] < -80
    both = {"model", "round_trip"}  # what makes the submixture too
    assert summary["means"]["mixture_consistency_db"].keys() == both
    assert "clap_score" not in summary["means"], "its conditioner embeds texts only"
    cells = summary["means"]["log_mel_l1"]["model"]
    assert cells.keys() == {"bass", "drums", "Avg."} and cells["bass"]["count"] == 3
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert len(rows) == 5 * len(load_segments(tmp_path / "out" / "segments.json"))
    page = (tmp_path / "out" / "index.html").read_text()
    for words in ("Log-Mel L1", "B (3)", "Best", "Worst", "floor of 1e-5"):
        assert words in page


def test_a_run_goes_on_where_it_was_and_others_are_judged_on_the_same_windows(evaluate, tmp_path):
    assert evaluate("extract", "--segments", 2)[0] == 0
    scores = tmp_path / "out" / "scores"
    before = {p.name: p.read_text() for p in scores.iterdir()}
    last = (scores / "model.rank0.jsonl").read_text().splitlines(keepends=True)
    (scores / "model.rank0.jsonl").write_text("".join(last[:-1]) + last[-1][:9])  # as a kill cuts
    assert evaluate("extract", "--segments", 2)[0] == 0
    after = (scores / "model.rank0.jsonl").read_text().splitlines()
    again, before_it = json.loads(after[-1]), json.loads(last[-1])
    assert again["segment"] == before_it["segment"]
    assert again["scores"] == pytest.approx(before_it["scores"], rel=1e-3)  # in another batch
    assert all((scores / n).read_text() == t for n, t in before.items() if "model" not in n)
    segments = load_segments(tmp_path / "out" / "segments.json")
    for segment in segments[:-1]:
        write_wav(tmp_path / f"theirs/{segment.id}.wav", np.zeros((1, WINDOW), np.float32), RATE)
    options = ["--segments-file", tmp_path / "out" / "segments.json"]
    code, _, _ = evaluate("extract", *options, "--estimates", tmp_path / "theirs", out="other")
    assert code == 0
    summary = json.loads((tmp_path / "other" / "summary.json").read_text())
    means = summary["means"]["log_mel_l1"]
    assert means["theirs"]["bass"]["mean"] == pytest.approx(means["silence"]["bass"]["mean"])
    page = (tmp_path / "other" / "index.html").read_text()
    assert "1 estimates are missing" in page and "neither .wav nor .flac" in page


@pytest.mark.parametrize("task", ["generate", "compose", "add"])
def test_music_is_judged_by_fad(evaluate, tmp_path, task):
    options = ["--segments", 4, "--embedding", "mel", "--seconds", 2]
    code, _, err = evaluate(task, *options, labels=("bass", "drums"))
    assert code == 0, err
    fad = json.loads((tmp_path / "out" / "summary.json").read_text())["fad"]
    assert "model" in fad and "round_trip" in fad
    for cells in fad.values():
        for found in cells.values():
            assert found["fad"] >= 0 and found["embedding"] == "mel" and found["dimension"] == 32
    if task == "add":
        assert {"silence", "random_stem"} <= fad.keys()
        segment = next(s for s in load_segments(tmp_path / "out" / "segments.json"))
        given = read_audio(audio_path(tmp_path / "out", "silence", segment))[0]
        both = read_audio(audio_path(tmp_path / "out", "reference", segment))[0]
        assert abs(both - given).max() > 1e-4, "sub-FAD: what is given alone against the mixture"


@pytest.mark.parametrize(
    ("task", "options", "wrong"),
    [
        ("remove", [], "task: expected one of generate, extract, add, compose, found 'remove'"),
        ("generate", ["--embedding", "x"], "embedding: expected vggish, clap or mel, found 'x'"),
        ("generate", ["--embedding", "vggish"], "vggish: its weights are needed"),
        ("extract", ["--sampler", "dddim"], "sampler: unknown value 'dddim', did you mean 'ddim'"),
        ("extract", ["--segments-file", "absent.json"], "absent.json: cannot be read"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_sentence(evaluate, task, options, wrong):
    code, _, err = evaluate(task, "--segments", 2, *options)
    assert code == 1 and wrong in err.splitlines()[-1]
