"""The command line itself: start-up, help, errors in one sentence, and the small commands."""

import json
import os
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import mge_plugin
from mge_plugin import cli, doctor
from mge_plugin.cli.app import sentence

ROOT = Path(__file__).parents[2]
KEEP = {"keep": "song.wav", "redo": "0-0.01"}
KEPT = [f"--{key}={value}" for key, value in KEEP.items()]


@pytest.fixture
def files(tiny, other_ckpt, tmp_path, write_song, tiny_config):
    """Good and bad files for a run; the name of each says what is wrong with it."""
    write_song(tmp_path / "song.wav", 900)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    sf.write(tmp_path / "nan.wav", np.full(10, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>")
    (tmp_path / "other.ckpt").symlink_to(other_ckpt)
    (tmp_path / "odd.json").write_text(json.dumps(tiny_config | {"sample_size": 100}))
    (tmp_path / "broken.json").write_text("{")
    write_song(tmp_path / "short.wav", 500)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "cover.jpg").touch()
    return {"model-config": tiny[1], "ckpt": tiny[3], "song": "song.wav", "prompt": "bass"}


def test_importing_the_package_is_cheap_and_gives_its_names(run_python):
    result = run_python(
        "import sys, time\n"
        "start = time.process_time()\n"
        "import mge_plugin\n"
        "print(time.process_time() - start)\n"
        "print([m for m in ('torch', 'gradio', 'numpy') if m in sys.modules])\n"
        "from mge_plugin import Request, Sampling, Result, Keep, Init, remix\n"
        "print([m for m in ('torch', 'gradio') if m in sys.modules])\n"
    )
    seconds, *imported = result.stdout.splitlines()
    assert float(seconds) < 0.3
    assert imported == ["[]", "[]"]


def test_help_names_every_command_and_imports_nothing_slow(run_main):
    result = run_main("--help")
    assert result.returncode == 0
    for command in ("demo", "doctor", "check", "models", "minislakh", "extract", "generate", "run"):
        assert f" {command} " in result.stdout
    assert result.stdout.rstrip().endswith("SLOW []")


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "absent.wav", "--prompt", "x", "--model", "minislakh"),
        ("extract", "a.wav"),
        ("generate", "--sampler", "ddmi", "--paper"),
        ("replace", "a.wav", "--prompt=x", "--with= "),
        ("remix", "absent.json", "--out", "x.wav"),
    ],
)
def test_a_slip_is_one_line_before_anything_slow_is_imported(arguments, run_main):
    result = run_main(*arguments)
    assert (result.returncode, result.stdout) == (1, "SLOW []\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"song": "absent.wav"}, "absent.wav"),
        ({"song": "text.wav"}, "text.wav"),
        ({"song": "empty.wav"}, "empty.wav"),
        ({"song": "pipe.wav"}, "pipe.wav"),
        ({"song": "nan.wav"}, "nan.wav"),
        ({"song": "nothing"}, "nothing.*1 not audio"),
        ({"song": ".", "out": "."}, "--out"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"steps": 0}, "steps.*0"),
        ({"seed": -1}, "seed.*-1"),
        ({"seed": 2**63}, "seed.*9223372036854775808"),
        ({"cfg-scale": "nan"}, "cfg_scale"),
        ({"cfg-scale": "two"}, "cfg_scale.*'two'"),
        ({"cfg-scale": "1,2"}, "cfg_scale"),
        ({"cfg-interval": "0.5"}, "cfg_interval"),
        ({"cfg-interval": "1,0"}, "cfg_interval"),
        ({"cfg-rescale": 2}, "cfg_rescale"),
        ({"apg-scale": -1}, "apg_scale"),
        ({"gate-threshold": "nan"}, "gate_threshold"),
        ({"window-batch": 0}, "window_batch"),
        ({"candidates": 0}, "candidates"),
        ({"batch": 0}, "batch"),
        ({"long-form": "loop"}, "long_form.*'loop'"),
        ({"schedule": "cosine"}, "schedule.*'cosine'"),
        ({"sampler": "dimm"}, "sampler.*'dimm'.*'ddim'"),
        ({"sampler": "euler"}, "euler"),
        ({"sampler": "heun", "eta": 1}, "eta"),
        ({"resamplings": 2}, "resamplings"),
        ({"sampler": "k-lms", "schedule": "log-snr"}, "schedule"),
        ({"format": "mp3"}, "format.*'mp3'"),
        ({"layout": "tree"}, "layout.*'tree'"),
        ({"dtype": "half"}, "dtype.*'half'"),
        ({"track-prompt": "bass"}, "--track-prompt.*'bass'"),
        ({"track-prompt": "mixtur=x"}, "--track-prompt.*'mixture'"),
        ({"track-prompt": "source=x"}, "--track-prompt source"),
        ({"example": "text.wav"}, "text.wav"),
        ({"example": "song.wav"}, "--example"),
        ({"text-weight": 2}, "text_weight"),
        ({"text-weight": 0.3}, "--text-weight"),
        ({"keep": "song.wav"}, "--keep and --redo"),
        ({"redo": "1-2"}, "--keep and --redo"),
        (KEEP | {"redo": "1"}, "--redo.*'1'"),
        (KEEP | {"redo": "a-2"}, "--redo.*'a-2'"),
        (KEEP | {"redo": "1-2-3"}, "--redo.*'1-2-3'"),
        (KEEP | {"redo": "2-1"}, "--redo.*'2-1'"),
        (KEEP | {"redo": "0:01-0:02"}, "--redo.*song.wav"),
        (KEEP | {"keep": "short.wav"}, "--keep.*900.*500"),
        ({"device": "gpu"}, "device.*'gpu'"),
        ({"device": "cuda:99"}, "device.*'cuda:99'"),
        ({"model": "minislakh"}, "--model"),
        ({"ckpt": "absent.ckpt"}, "absent.ckpt"),
        ({"ckpt": "page.ckpt"}, "page.ckpt"),
        ({"ckpt": "other.ckpt"}, "other.ckpt"),
        ({"model-config": "absent.json"}, "absent.json"),
        ({"model-config": "broken.json"}, "broken.json"),
        ({"model-config": "odd.json"}, "odd.json.*sample_size"),
        ({"model-config": ROOT / "model_configs" / "mge_vae_tiny.json"}, "mge_vae_tiny.json"),
        ({"out": "song.wav"}, "song.wav"),
        ({"out": "song.wav/out"}, "song.wav/out"),
    ],
    ids=str,
)
def test_an_expected_error_is_one_line_and_leaves_nothing_behind(
    mge, files, tmp_path, monkeypatch, recwarn, changes, named
):
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    options = files | {"out": "out", "steps": 1, "device": "cpu"} | changes
    song = options.pop("song")
    code, out, err = mge("extract", song, *(f"--{key}={value}" for key, value in options.items()))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert re.match(f"error: .*{named}", line), line
    assert not recwarn.list
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("extract", [], "extract"),
        ("extract", ["song.wav"], "extract"),
        ("compose", [], "compose"),
        ("replace", ["song.wav", "--with=x"], "replace"),
        ("replace", ["song.wav", "--prompt=x"], "prompt"),
        ("generate", ["--prompt="], "prompt"),
        ("generate", ["--seed", 2**63 - 1, "--number=2"], "seed"),
        ("generate", ["--number=0"], "number"),
        ("generate", ["--seconds=nan"], "seconds"),
        ("generate", ["--seconds=1e9"], "seconds"),
        ("generate", ["--example=song.wav", "--example=short.wav"], "generate"),
        ("generate", [*KEPT, "--seconds=1"], "--seconds"),
        ("generate", ["--init=song.wav", "--init-level=0"], "--init-level"),
        ("generate", ["--init=song.wav", "--seconds=3"], "--seconds"),
        ("generate", ["--init=absent.wav"], "absent.wav"),
        ("generate", ["--track-prompt=source=a", "--track-prompt=source=b"], "--track-prompt.*'b'"),
        ("extract", ["song.wav", "short.wav", *KEPT, "--prompt=x"], "--keep.*2 songs"),
        ("add", ["song.wav", *KEPT, "--prompt=x", "--prompt=y"], "--keep.*2 prompts"),
        ("extract", ["song.wav", "--prompt=x", "--prompt=y", "--example=song.wav"], "--example"),
        ("extract", ["song.wav", "--all", "--no-gate"], "--all"),
    ],
)
def test_options_that_do_not_fit_are_reported_before_the_model_is_loaded(
    mge, files, tmp_path, monkeypatch, command, arguments, named
):
    monkeypatch.setattr("mge_plugin.inference.pipeline.load", None)
    monkeypatch.chdir(tmp_path)
    model = [f"--model-config={files['model-config']}", f"--ckpt={files['ckpt']}"]
    code, out, err = mge(command, *arguments, *model)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert re.match(f"error: .*{named}", line), line


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: y")],
)
def test_too_little_memory_is_one_line_with_advice(task, monkeypatch, error):
    def denoise(*_):
        raise error

    monkeypatch.setattr("mge_plugin.inference.pipeline.denoise", denoise)
    code, out, err = task("generate")
    assert (code, out) == (1, "")
    assert re.search("error: not enough memory on cpu .*window_batch 2", err)


def test_a_folder_that_cannot_be_written_to_is_named_before_the_model_is_loaded(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr("mge_plugin.inference.pipeline.load", None)
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)
    code, _, err = task("generate")
    assert code == 1 and str(tmp_path / "out") in err


def test_damaged_weights_are_an_error_and_leave_no_file(mge, tiny, tmp_path, write_song):
    content = torch.load(tiny[3], weights_only=True)
    content["state_dict"]["model.model.preprocess_conv.weight"].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    song = write_song(tmp_path / "song.wav", 900)
    options = ["--prompt", "bass", "--ckpt", tmp_path / "nan.ckpt", "--out", tmp_path / "out"]
    code, out, err = mge("extract", song, *tiny[:2], *options, "--steps", 1, "--device", "cpu")
    assert (code, out) == (1, "")
    assert "weights" in err.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())


def test_an_error_of_several_lines_becomes_one():
    assert sentence(ValueError("one\n  two\n")) == "one two"
    assert sentence(ValueError()) == "ValueError"


def test_mge_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("MGE_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["mge", "extract", "a.wav", "--prompt="])
    with pytest.raises(ValueError, match="prompt"):
        cli.main()


def test_the_version_is_printed(mge):
    assert mge("--version") == (0, f"mge_plugin {mge_plugin.__version__}\n", "")


def test_check_reports_ok_or_every_problem_in_either_order(mge, tmp_path, tiny_config):
    config = ROOT / "model_configs" / "mge_dit_tiny.json"
    assert mge("check", config) == (0, "ok: everything fits\n", "")
    bad, dataset = tmp_path / "bad.json", tmp_path / "dataset.json"
    bad.write_text(json.dumps(tiny_config | {"sample_size": 1, "model_type": 2}))
    dataset.write_text('{"dataset_type": "mge_triplets", "datasets": []}')
    code, out, err = mge("check", bad, dataset)
    assert (code, out) == (1, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["problem"] * 3
    assert mge("check", dataset, bad) == (code, out, err)


def test_check_never_shows_a_traceback(mge, tmp_path):
    odd = ("[]", "null", "{", "", '{"model": {"diffusion": {"type": "mge_dit"}}}', '"\\ud800"')
    odd += ('{"dataset_type": "mge_triplets", "datasets": [{"id": "a", "path": "\\ud800"}]}',)
    model, dataset = tmp_path / "model.json", tmp_path / "dataset.json"
    for first, second in product(odd, odd):
        model.write_text(first)
        dataset.write_text(second)
        code, out, err = mge("check", model, dataset)
        assert (code, out) == (1, "")
        assert err
        assert all(line.startswith("problem: ") for line in err.splitlines())


def test_doctor_fails_if_something_is_wrong(mge, monkeypatch):
    monkeypatch.setattr(doctor, "_EXAMINATIONS", {"a": lambda: ("1.0", None)})
    assert mge("doctor") == (0, f"{'a':22} 1.0\n", "")
    monkeypatch.setitem(doctor._EXAMINATIONS, "b", lambda: ("missing", "pip install b"))
    code, out, err = mge("doctor")
    assert (code, len(out.splitlines()), err) == (1, 2, "problem: b: pip install b\n")


def test_run_passes_its_arguments_to_the_launcher_unchanged(mge, monkeypatch):
    class Replaced(SystemExit):
        """The process is another program's now."""

    def execv(program, arguments):
        assert (program, arguments[0]) == (sys.executable, sys.executable)
        raise Replaced(arguments[1:])

    monkeypatch.setattr(os, "execv", execv)
    code, _, _ = mge("run", "--cpu", "train.py", "--name", "a b", "--help")
    assert code == ["-m", "mge_plugin", "--cpu", "train.py", "--name", "a b", "--help"]
