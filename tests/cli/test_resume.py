"""Runs that stop and go on: what is complete is passed over, nothing is ever half a file."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from mge_plugin.cli import batch

PROMPT = ("--prompt", "bass", "--no-gate")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def songs(tmp_path, write_song):
    """Three short songs."""
    paths = [tmp_path / "songs" / f"{name}.wav" for name in "abc"]
    return [write_song(path, 900, seed=seed) for seed, path in enumerate(paths)]


@pytest.fixture
def no_model(monkeypatch):
    """From when it is called on, loading the model is an error."""

    def load(*_):
        raise AssertionError("the model was loaded")

    return lambda: monkeypatch.setattr("mge_plugin.inference.pipeline.load", load)


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_complete_is_passed_over_without_loading_the_model(task, tmp_path, songs, no_model):
    assert task("extract", *songs, *PROMPT)[0] == 0
    before = times(tmp_path / "out")
    no_model()
    code, out, err = task("extract", *songs, *PROMPT, "--window-batch", 1)
    assert (code, out, err) == (0, "0 done, 3 already there, 0 failed\n", "")
    code, out, err = task("extract", songs[0], *PROMPT)
    files = ", ".join(str(tmp_path / "out" / f"a_bass_{n}.wav") for n in ("source", "residual"))
    assert (code, out, err) == (0, f"Already there: {files}\n", "")
    assert times(tmp_path / "out") == before


@pytest.mark.parametrize("lost", ["b_bass.json", "b_bass_source.wav"])
def test_only_what_a_killed_run_left_open_is_made(task, tmp_path, songs, lost):
    assert task("extract", *songs, *PROMPT)[0] == 0
    out = tmp_path / "out"
    whole, before = (out / lost).read_bytes(), times(out)
    (out / lost).unlink()
    code, said, _ = task("extract", *songs, *PROMPT)
    assert (code, said.splitlines()[-1]) == (0, "1 done, 2 already there, 0 failed")
    assert (out / lost).read_bytes() == whole
    after = times(out)
    assert {name for name in after if after[name] != before[name]} == {
        "b_bass.json",
        "b_bass_source.wav",
        "b_bass_residual.wav",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", 1], "seed: found 0, asked 1"),
        (["--steps", 3], "steps: found 2, asked 3"),
        (["--cfg-scale", "1,2,3"], r"cfg_scale: found 2.0, asked \[1.0, 2.0, 3.0\]"),
        (["--negative", "drums"], "negative: found None, asked 'drums'"),
        (["--prompt", "bass!"], r"prompts: found \['bass'\], asked \['bass!'\]"),
        (["--format", "flac"], "format: found 'wav', asked 'flac'"),
        (["--dtype", "float32"], "dtype: found 'auto', asked 'float32'"),
        (["--ckpt", "other"], "another ckpt"),
        (["--keep", "kept", "--redo", "0-0.01"], r"another keep, redo: found \[\], asked \[\[0"),
    ],
    ids=str,
)
def test_a_result_of_other_settings_is_never_written_over_unasked(
    task, tmp_path, songs, no_model, options, said
):
    first = ["--prompt", "bass", "--no-gate"]
    assert task("extract", songs[0], *first)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    no_model()
    (tmp_path / "other").write_bytes(b"other weights")
    (tmp_path / "kept").write_bytes((tmp_path / "songs" / "a.wav").read_bytes())
    options = [tmp_path / o if o in ("other", "kept") else o for o in options]
    first = ["--no-gate"] if "--prompt" in options else first
    code, out, err = task("extract", songs[0], *first, *options)
    assert (code, out) == (1, "")
    where = re.escape(str(tmp_path / "out" / "a_bass.json"))
    remedy = r"use --overwrite or another --out\n$"
    assert re.match(rf"error: {where}: exists with other settings \({said}.*\): {remedy}", err), err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("content", ["{", "{}", '{"request": 3}'])
def test_a_json_of_others_is_never_written_over_unasked(task, tmp_path, songs, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_bass.json").write_text(content)
    code, _, err = task("extract", songs[0], *PROMPT)
    assert code == 1
    assert err.endswith("use --overwrite or another --out\n")
    assert (tmp_path / "out" / "a_bass.json").read_text() == content
    assert task("extract", songs[0], *PROMPT, "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "a_bass.json").read_text())["task"] == "extract"


def test_another_song_under_the_same_name_is_refused_and_the_others_are_made(
    task, tmp_path, songs, write_song
):
    assert task("extract", songs[0], *PROMPT)[0] == 0
    write_song(songs[0], 800, seed=9)
    code, out, err = task("extract", *songs, *PROMPT)
    assert (code, out.splitlines()[-1]) == (1, "2 done, 0 already there, 1 failed")
    assert f"failed: {songs[0]}: " in err
    assert "exists with other settings (another song)" in err


def test_overwriting_makes_all_anew(task, made, songs):
    assert task("extract", *songs, *PROMPT)[0] == 0
    code, out, _ = task("extract", *songs, *PROMPT, "--overwrite", "--seed", 1)
    assert (code, out.splitlines()[-1]) == (0, "3 done, 0 already there, 0 failed")
    assert {info["seed"] for info in made()[1].values()} == {1}


def test_new_tracks_never_lie_beside_the_json_of_old_ones(task, tmp_path, songs, monkeypatch):
    """As when a run that overwrites is killed after its first file."""
    assert task("extract", songs[0], *PROMPT)[0] == 0

    def write_wav(path, *_):
        path.write_bytes(b"new")
        raise KeyboardInterrupt

    monkeypatch.setattr("mge_plugin.cli.batch.write_wav", write_wav)
    assert task("extract", songs[0], *PROMPT, "--overwrite")[0] == 130
    assert not (tmp_path / "out" / "a_bass.json").exists()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_keeps_what_is_done_and_leaves_no_part_of_a_file(
    task, tmp_path, songs, monkeypatch, options
):
    calls = []

    @contextmanager
    def interrupted(_):
        def step(_):
            calls.append(step)
            if len(calls) == 4:  # the second step of the second song
                raise KeyboardInterrupt

        yield step

    with monkeypatch.context() as patch:
        patch.setattr(batch, "sampling_progress", interrupted)
        code, out, err = task("extract", *songs, *PROMPT, *options)
    assert code == 130
    line = "interrupted: 1 of 3 are there, the same command goes on with the rest"
    assert err.splitlines()[-1] == line
    if options:
        assert [song["song"] for song in json.loads(out)["songs"]] == [str(songs[0])]
    names = {"a_bass.json", "a_bass_source.wav", "a_bass_residual.wav"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    code, out, _ = task("extract", *songs, *PROMPT)
    assert (code, out.splitlines()[-1]) == (0, "2 done, 1 already there, 0 failed")


def test_a_process_that_gets_sigint_stops_with_130_and_goes_on_later(tmp_path, tiny, songs):
    command = ["extract", *songs, *tiny, *PROMPT, "--device", "cpu", "--out", tmp_path / "out"]
    code = f"import sys; sys.argv = {['mge', *map(str, command)]}; from mge_plugin.cli import main"
    # what is started in the background by a shell ignores the signal, and so do its children
    code += "; import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.argv += ['--steps', '100000']; main()"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    started = ""
    while "sampling" not in started:  # the bar's first sign
        started += process.stderr.read(1)
        assert process.poll() is None, started
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: 0 of 3 are there" in err
    assert "Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []
