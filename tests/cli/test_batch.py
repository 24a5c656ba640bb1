"""Several songs in one command: failures, JSON, resuming, interrupts, ranks."""

import json
import os
import re
import signal

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.inference.pipeline import Pipeline
from tests.processes import run_mge, run_ranks, start

PROMPT = ("--prompt", "bass", "--no-gate")


@pytest.fixture
def songs(tmp_path, write_song):
    """Three songs of different lengths."""
    lengths = {"a": 900, "c": 5000, "e": 2048}
    return [
        write_song(tmp_path / "songs" / f"{name}.wav", frames, seed=seed)
        for seed, (name, frames) in enumerate(lengths.items())
    ]


@pytest.fixture
def bad(tmp_path, songs):
    """Two files in the songs' folder that cannot be read, in the order in which they fail."""
    nan, text = tmp_path / "songs" / "b nan.wav", tmp_path / "songs" / "d text.wav"
    sf.write(nan, np.full(10, np.nan), 16000, subtype="FLOAT")
    text.write_text("not audio")
    return [text, nan]


@pytest.fixture
def no_model(monkeypatch):
    """Once called, loading the model is an error."""
    return lambda: monkeypatch.setattr("mge_plugin.inference.pipeline.load", None)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("together", [1, 3])
def test_songs_that_fail_are_reported_and_the_others_are_written(task, made, songs, bad, together):
    code, out, err = task("extract", songs[0].parent, *PROMPT, "--batch", together)
    assert (code, out.splitlines()[-1]) == (1, "3 done, 0 already there, 2 failed")
    assert list(made()[1]) == ["a_bass.json", "c_bass.json", "e_bass.json"]
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert [str(path) in line for path, line in zip(bad, failed, strict=True)] == [True, True]
    assert "songs: 100%" in err


def test_songs_in_one_batch_are_as_alone(task, made, songs):
    for together in (1, 3):
        assert task("extract", *songs, *PROMPT, "--batch", together, out=str(together))[0] == 0
    alone, at_once = (made(out)[0] for out in "13")
    assert alone.keys() == at_once.keys()
    for name in alone:
        np.testing.assert_allclose(at_once[name], alone[name], atol=1e-5)


def test_json_is_one_object_and_nothing_else_on_stdout(task, tmp_path, songs, bad):
    assert task("extract", songs[2], *PROMPT)[0] == 0
    code, out, _ = task("extract", songs[0].parent, *PROMPT, "--json")
    report = json.loads(out)
    assert code == 1
    states = {song["song"]: song["state"] for song in report["songs"]}
    assert states == dict(zip(map(str, songs), ("done", "done", "already there"), strict=True))
    for song in report["songs"]:
        stem = os.path.basename(song["song"])[0]
        assert song["info"] == json.loads((tmp_path / f"out/{stem}_bass.json").read_text())
        assert all(os.path.isfile(file) for file in song["files"])
    assert [failure["song"] for failure in report["failures"]] == [str(path) for path in bad]
    code, out, err = task("extract", bad[1], *PROMPT, "--json")
    assert (code, len(json.loads(out)["failures"]), err.count("\n")) == (1, 1, 1)


def test_if_nothing_can_be_computed_the_model_is_not_loaded(task, tmp_path, bad, no_model):
    no_model()
    code, out, err = task("extract", bad[0], tmp_path / "absent.wav", *PROMPT)
    assert (code, out) == (1, "0 done, 0 already there, 2 failed\n")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["failed", "failed"]


def test_a_song_too_large_for_the_memory_does_not_stop_the_others(task, songs, monkeypatch):
    run = Pipeline.run

    def small(self, requests, *arguments):
        if max(request.audio.samples.shape[1] for request in requests) > 4000:
            raise MemoryError("not enough memory")
        return run(self, requests, *arguments)

    monkeypatch.setattr(Pipeline, "run", small)
    code, out, err = task("extract", *songs, *PROMPT, "--batch", 3)
    assert (code, out.splitlines()[-1]) == (1, "2 done, 0 already there, 1 failed")
    assert f"failed: {songs[1]}" in err


def test_a_disk_error_is_the_songs_own_and_leaves_nothing(task, tmp_path, songs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mge_plugin.cli.batch.write_wav", full)
    code, _, err = task("extract", *songs[:2], *PROMPT)
    assert (code, err.count("No space left on device")) == (1, 2)
    assert not list((tmp_path / "out").iterdir())


def test_silent_songs_and_sources_that_were_not_found_are_reported(task, made, tmp_path, songs):
    sf.write(tmp_path / "silent.wav", np.zeros(900), 16000)
    paths = [tmp_path / "silent.wav", songs[0]]
    code, _, err = task("extract", *paths, "--prompt=bass", "--gate-threshold=1")
    assert code == 0
    assert f"{paths[0]}: is silent" in err
    assert f"{paths[1]}: 'bass' was not found (presence 0." in err
    audio, _ = made()
    assert not audio["a_bass.wav"].any() and audio["a_bass_residual.wav"].any()


def test_complete_results_are_skipped_without_loading_the_model(task, tmp_path, songs, no_model):
    assert task("extract", *songs, *PROMPT)[0] == 0
    before = times(tmp_path / "out")
    no_model()
    code, out, err = task("extract", *songs, *PROMPT, "--window-batch", 1)
    assert (code, out, err) == (0, "0 done, 3 already there, 0 failed\n", "")
    code, out, err = task("extract", songs[0], *PROMPT)
    files = ", ".join(str(tmp_path / "out" / f"a_{n}.wav") for n in ("bass", "bass_residual"))
    assert (code, out, err) == (0, f"Already there: {files}\n", "")
    assert times(tmp_path / "out") == before


def test_only_results_that_a_killed_run_left_incomplete_are_computed(task, tmp_path, songs):
    assert task("extract", *songs, *PROMPT)[0] == 0
    out = tmp_path / "out"
    lost = out / "c_bass.wav"
    whole, before = lost.read_bytes(), times(out)
    lost.unlink()
    code, said, _ = task("extract", *songs, *PROMPT)
    assert (code, said.splitlines()[-1]) == (0, "1 done, 2 already there, 0 failed")
    assert lost.read_bytes() == whole
    after = times(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"c_bass.json", "c_bass.wav", "c_bass_residual.wav"}


def test_a_result_of_an_earlier_version_is_recognised(task, tmp_path, songs, no_model):
    """Its JSON lacks options that did not exist, and its files have other names."""
    assert task("extract", songs[0], *PROMPT)[0] == 0
    out = tmp_path / "out"
    (out / "a_bass.wav").rename(out / "a_bass_source.wav")
    info = json.loads((out / "a_bass.json").read_text())
    del info["request"]["choose"]
    info["files"] = {"source": "a_bass_source.wav", "residual": "a_bass_residual.wav"}
    (out / "a_bass.json").write_text(json.dumps(info))
    no_model()
    assert task("extract", songs[0], *PROMPT)[1].startswith("Already there")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", 1], "seed: found 0, requested 1"),
        (["--steps", 3], "steps"),
        (["--cfg-scale", "1,2,3"], "cfg_scale"),
        (["--negative", "drums"], "negative"),
        (["--format", "flac"], "format"),
        (["--dtype", "float32"], "dtype"),
        (["--chain"], "chain"),
        (["--ckpt", "other"], "another ckpt"),
        (["--keep", "kept", "--redo", "0-0.01"], "another keep, redo"),
    ],
    ids=str,
)
def test_a_result_of_other_settings_is_only_replaced_on_request(
    task, tmp_path, songs, no_model, options, named
):
    assert task("extract", songs[0], *PROMPT)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    no_model()
    (tmp_path / "other").write_bytes(b"other weights")
    (tmp_path / "kept").write_bytes(songs[0].read_bytes())
    options = [tmp_path / o if o in ("other", "kept") else o for o in options]
    code, out, err = task("extract", songs[0], *PROMPT, *options)
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'out' / 'a_bass.json'}: " in err and f"({named}" in err, err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("content", ["{", "{}", '{"request": 3}'])
def test_a_json_of_other_programs_is_only_replaced_on_request(task, tmp_path, songs, content):
    path = tmp_path / "out" / "a_bass.json"
    path.parent.mkdir()
    path.write_text(content)
    assert task("extract", songs[0], *PROMPT)[0] == 1
    assert path.read_text() == content
    assert task("extract", songs[0], *PROMPT, "--overwrite")[0] == 0
    assert json.loads(path.read_text())["task"] == "extract"


def test_a_file_of_another_result_is_never_replaced(task, made, tmp_path, songs):
    """The user's own stem, and the source of a request with more prompts."""
    stem = tmp_path / "out" / "a_bass.wav"
    stem.parent.mkdir()
    stem.write_bytes(songs[1].read_bytes())
    assert task("extract", songs[0], *PROMPT)[0] == 0
    assert task("extract", songs[0], *PROMPT, "--prompt=drums")[0] == 0
    assert stem.read_bytes() == songs[1].read_bytes()
    files = {name: info["files"]["bass"] for name, info in made()[1].items()}
    assert files == {
        "a_bass.json": "a_bass_bass.wav",
        "a_bass_drums.json": "a_bass_drums_bass.wav",
    }


def test_another_song_of_the_same_name_fails_and_the_others_are_written(task, songs, write_song):
    assert task("extract", songs[0], *PROMPT)[0] == 0
    write_song(songs[0], 800, seed=9)
    code, out, err = task("extract", *songs, *PROMPT)
    assert (code, out.splitlines()[-1]) == (1, "2 done, 0 already there, 1 failed")
    assert f"failed: {songs[0]}: " in err and "another song" in err


def test_overwriting_computes_everything_again(task, made, songs):
    assert task("extract", *songs, *PROMPT)[0] == 0
    code, out, _ = task("extract", *songs, *PROMPT, "--overwrite", "--seed", 1)
    assert (code, out.splitlines()[-1]) == (0, "3 done, 0 already there, 0 failed")
    assert {info["seed"] for info in made()[1].values()} == {1}


def test_whenever_a_run_is_killed_existing_files_belong_to_their_json(
    task, tmp_path, songs, monkeypatch
):
    assert task("extract", songs[0], *PROMPT)[0] == 0
    replace, out = os.replace, tmp_path / "out"
    renamed = []

    def killed(source, target):
        if len(renamed) == moment:
            raise KeyboardInterrupt
        renamed.append(target)
        replace(source, target)

    for moment in range(6):  # of audio staged, JSON, and audio named
        renamed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            code, _, _ = task("extract", songs[0], *PROMPT, "--overwrite", "--seed", 1 + moment)
        if code == 0:
            break
        info = json.loads((out / "a_bass.json").read_text())
        present = [file for file in info["files"].values() if (out / file).exists()]
        complete = len(present) == len(info["files"])
        assert not complete or info["seed"] <= moment  # the result before this one
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert (code, info["seed"] > 0) == (0, True)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_keeps_finished_results_and_leaves_no_part_of_a_file(
    task, tmp_path, songs, monkeypatch, options
):
    run, calls = Pipeline.run, []

    def interrupted(self, requests, callback):
        calls.append(requests)

        def step(event):
            if len(calls) == 2 and event["advance"]:
                raise KeyboardInterrupt
            callback(event)

        return run(self, requests, step)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", interrupted)
        code, out, err = task("extract", *songs, *PROMPT, *options)
    assert code == 130
    assert err.splitlines()[-1].startswith("interrupted: 1 of 3 ")
    if options:
        assert [song["song"] for song in json.loads(out)["songs"]] == [str(songs[0])]
    names = {"a_bass.json", "a_bass.wav", "a_bass_residual.wav"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    code, out, _ = task("extract", *songs, *PROMPT)
    assert (code, out.splitlines()[-1]) == (0, "2 done, 1 already there, 0 failed")


def test_a_process_that_gets_sigint_stops_with_130(tmp_path, tiny, songs):
    options = [*tiny, *PROMPT, "--device", "cpu", "--out", tmp_path / "out", "--steps", 10000]
    log = tmp_path / "log"
    process = start(run_mge, "extract", *map(str, [*songs, *options]), output=log)
    while not log.exists() or "sampling" not in log.read_text():  # the bar's first sign
        assert process.is_alive()
        process.join(0.1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    process.kill()
    said = log.read_text()
    assert process.exitcode == 130
    assert "interrupted: 0 of 3" in said and "Traceback" not in said
    assert list((tmp_path / "out").iterdir()) == []


def test_as_ranks_each_has_its_songs_and_there_is_one_report(tmp_path, tiny, songs, bad, made):
    options = [*PROMPT, "--steps", 2, "--device", "cpu", "--out", tmp_path / "out", "--json"]
    arguments = ["extract", songs[0].parent, *tiny, *options]
    run_ranks(2, run_mge, *map(str, arguments), output=tmp_path / "rank", codes=[0, 1])
    said = (tmp_path / "rank.0.log").read_text() + (tmp_path / "rank.1.log").read_text()
    report = json.loads(re.search(r"^\{$.*^\}$", said, re.M | re.S)[0])
    assert sorted(song["song"] for song in report["songs"]) == [str(song) for song in songs]
    assert {failure["song"] for failure in report["failures"]} == set(map(str, bad))
    assert list(made()[1]) == ["a_bass.json", "c_bass.json", "e_bass.json"]
