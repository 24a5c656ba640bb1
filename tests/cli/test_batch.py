"""Several songs in one command: failures, JSON, formats, what is said."""

import json
import re

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.inference.pipeline import Pipeline

PROMPT = ("--prompt", "bass", "--no-gate")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def songs(tmp_path, write_song):
    """Songs of three lengths, one of which has a sample that is no number; and a text."""
    folder = tmp_path / "songs"
    write_song(folder / "a.wav", 900, seed=1)
    sf.write(folder / "b nan.wav", np.full(10, np.nan), 16000, subtype="FLOAT")
    write_song(folder / "c.wav", 5000, seed=2)
    (folder / "d text.wav").write_text("not audio")
    write_song(folder / "e.wav", 2048, seed=3)
    return folder


@pytest.mark.parametrize("together", [1, 3])
def test_songs_that_fail_are_told_and_the_others_are_made(task, made, songs, together):
    code, out, err = task("extract", songs, *PROMPT, "--batch", together)
    assert (code, out.splitlines()[-1]) == (1, "3 done, 0 already there, 2 failed")
    assert list(made()[1]) == ["a_bass.json", "c_bass.json", "e_bass.json"]
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert failed == [
        f"failed: {songs / 'd text.wav'}: not readable as audio (Format not recognised.)",
        f"failed: {songs / 'b nan.wav'}: 10 samples are NaN or infinite",
    ]
    assert "songs: 100%" in err
    assert "sampling: 100%" in err


def test_songs_made_together_are_those_made_alone(task, made, songs):
    names = ("a", "c", "e")
    paths = [songs / f"{name}.wav" for name in names]
    for together in (1, 3):
        assert task("extract", *paths, *PROMPT, "--batch", together, out=str(together))[0] == 0
    alone, at_once = (made(out)[0] for out in "13")
    assert alone.keys() == at_once.keys()
    for name in alone:
        np.testing.assert_allclose(at_once[name], alone[name], atol=1e-5)
    assert made("1")[1] == made("3")[1]


def test_json_is_one_object_and_nothing_else_on_stdout(task, tmp_path, songs):
    assert task("extract", songs / "e.wav", *PROMPT)[0] == 0
    code, out, _ = task("extract", songs, *PROMPT, "--json")
    said = json.loads(out)
    assert code == 1
    assert {s["song"]: s["state"] for s in said["songs"]} == {
        str(songs / "a.wav"): "done",
        str(songs / "c.wav"): "done",
        str(songs / "e.wav"): "already there",
    }
    for song in said["songs"]:
        (path,) = {re.sub("_[a-z]+.wav", ".json", file) for file in song["files"]}
        assert song["info"] == json.loads((tmp_path / path).read_text())
    assert said["failures"] == [
        {
            "song": str(songs / "d text.wav"),
            "error": f"{songs / 'd text.wav'}: not readable as audio (Format not recognised.)",
        },
        {
            "song": str(songs / "b nan.wav"),
            "error": f"{songs / 'b nan.wav'}: 10 samples are NaN or infinite",
        },
    ]


def test_json_of_a_single_song_that_fails_names_the_failure_too(task, songs):
    code, out, err = task("extract", songs / "b nan.wav", *PROMPT, "--json")
    assert code == 1
    assert len(json.loads(out)["failures"]) == 1
    assert err == f"error: {songs / 'b nan.wav'}: 10 samples are NaN or infinite\n"


def test_where_nothing_can_be_made_the_model_is_not_loaded(task, tmp_path, songs, monkeypatch):
    monkeypatch.setattr("mge_plugin.inference.pipeline.load", None)
    code, out, err = task("extract", songs / "d text.wav", tmp_path / "absent.wav", *PROMPT)
    assert (code, out) == (1, "0 done, 0 already there, 2 failed\n")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["failed", "failed"]


def test_a_song_too_large_for_the_memory_does_not_stop_the_others(task, songs, monkeypatch):
    run = Pipeline.run

    def small(self, requests, *arguments):
        if max(request.audio.shape[1] for request in requests) > 4000:
            raise MemoryError("not enough memory: try window_batch 2")
        return run(self, requests, *arguments)

    monkeypatch.setattr(Pipeline, "run", small)
    paths = [songs / f"{name}.wav" for name in "ace"]
    code, out, err = task("extract", *paths, *PROMPT, "--batch", 3)
    assert (code, out.splitlines()[-1]) == (1, "2 done, 0 already there, 1 failed")
    assert f"failed: {songs / 'c.wav'}: not enough memory: try window_batch 2" in err


def test_a_disk_error_is_the_songs_own(task, songs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mge_plugin.cli.batch.write_wav", full)
    code, _, err = task("extract", songs / "a.wav", songs / "c.wav", *PROMPT)
    assert code == 1
    assert err.count("No space left on device") == 2


def test_a_silent_song_and_a_source_that_is_not_there_are_told(task, made, tmp_path, songs):
    sf.write(tmp_path / "silent.wav", np.zeros(900), 16000)
    paths = [tmp_path / "silent.wav", songs / "a.wav"]
    code, out, err = task("extract", *paths, "--prompt=bass", "--gate-threshold=1")
    assert (code, out.splitlines()[-1]) == (0, "2 done, 0 already there, 0 failed")
    assert f"{tmp_path / 'silent.wav'}: is silent, so is all that was extracted\n" in err
    assert f"{songs / 'a.wav'}: 'bass' was not found (presence 0." in err
    audio, _ = made()
    assert not audio["silent_bass_source.wav"].any()
    assert not audio["silent_bass_residual.wav"].any()
    assert not audio["a_bass_source.wav"].any()
    assert audio["a_bass_residual.wav"].any()
