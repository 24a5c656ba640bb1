import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import cli
from mge_plugin.cli import app as console

ROOT = Path(__file__).parents[2]
KEPT = ["--keep=song.wav", "--redo=0-0.01"]
KEEP = {"keep": "song.wav", "redo": "0-0.01"}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def files(tiny, other_ckpt, tmp_path, write_song, tiny_config):
    """Good and bad files for a run; what each is called says what is wrong with it."""
    write_song(tmp_path / "song.wav", 900)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").touch()
    sf.write(tmp_path / "nan.wav", np.full(10, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>")
    (tmp_path / "other.ckpt").symlink_to(other_ckpt)
    (tmp_path / "odd.json").write_text(json.dumps(tiny_config | {"sample_size": 100}))
    (tmp_path / "broken.json").write_text("{")
    write_song(tmp_path / "short.wav", 500)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "cover.jpg").touch()
    return {"model-config": tiny[1], "ckpt": tiny[3], "song": "song.wav", "prompt": "bass"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "absent.wav", "--prompt", "x", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("extract", "a.wav", "--prompt", "", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("extract", "a.wav", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("generate", "--sampler", "ddmi", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("compose", "--prompt", "x", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("replace", "a.wav", "--prompt=x", "--with= ", "--model-config=m.json", "--ckpt=m.ckpt"),
        ("remix", "absent.json", "--out", "x.wav"),
        ("check", "absent.json"),
    ],
)
def test_a_slip_is_told_before_anything_slow_is_imported(arguments, run_main):
    result = run_main(*arguments)
    assert result.returncode == 1
    assert result.stdout == "SLOW []\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith(("error: ", "problem: "))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"song": "absent.wav"}, "absent.wav: .*no such file"),
        ({"song": "text.wav"}, "text.wav: not readable as audio"),
        ({"song": "empty.wav"}, "empty.wav: .*the file is empty"),
        ({"song": "nan.wav"}, "nan.wav: 10 samples are NaN or infinite"),
        ({"song": "nothing"}, r"nothing: expected audio files, found none \(1 not audio\)"),
        ({"song": ".", "out": "."}, "--out: . is the songs' own folder"),
        ({"prompt": ""}, "prompt: expected words such as 'the sound of the bass', found ''"),
        ({"prompt": " "}, "prompt: expected words such as 'the sound of the bass', found ' '"),
        ({"steps": 0}, "steps: expected 1 or more, found 0"),
        ({"steps": -3}, "steps: expected 1 or more, found -3"),
        ({"seed": -1}, "seed: expected 0 to 9223372036854775807, found -1"),
        ({"seed": 2**63}, "seed: expected 0 to 9223372036854775807, found 9223372036854775808"),
        ({"cfg-scale": "nan"}, "cfg_scale: expected a finite number, found nan"),
        ({"cfg-scale": "two"}, "cfg_scale: expected 1 or 3 numbers with commas, found 'two'"),
        ({"cfg-scale": "1,2"}, "cfg_scale: expected 1 or 3 numbers with commas, found '1,2'"),
        ({"cfg-interval": "0.5"}, "cfg_interval: expected 2 numbers with commas, found '0.5'"),
        ({"cfg-interval": "1,0"}, "cfg_interval: expected two rising shares from 0 to 1"),
        ({"cfg-rescale": 2}, "cfg_rescale: expected 0 to 1, found 2.0"),
        ({"apg-scale": -1}, "apg_scale: expected 0 to 1, found -1.0"),
        ({"gate-threshold": "nan"}, "gate_threshold: expected 0 to 1, found nan"),
        ({"window-batch": 0}, "window_batch: expected 1 or more, found 0"),
        ({"candidates": 0}, "candidates: expected 1 or more, found 0"),
        ({"long-form": "loop"}, "long_form: expected one of joint, sequential, found 'loop'"),
        ({"schedule": "cosine"}, "schedule: expected one of linear, log-snr, found 'cosine'"),
        ({"sampler": "dimm"}, "sampler: unknown value 'dimm', did you mean 'ddim'?"),
        ({"sampler": "euler"}, "sampler: unknown value 'euler'"),
        ({"sampler": "heun", "eta": 1}, "eta is for ddim, found sampler 'heun'"),
        ({"resamplings": 2}, "resamplings is for repaint, found sampler 'ddim'"),
        (
            {"sampler": "k-lms", "schedule": "log-snr"},
            "schedule is for our own samplers, found sampler 'k-lms'",
        ),
        ({"format": "mp3"}, "format: unknown value 'mp3', known: flac, wav"),
        ({"dtype": "half"}, "dtype: unknown value 'half'"),
        ({"track-prompt": "bass"}, "--track-prompt: expected TRACK=TEXT, found 'bass'"),
        ({"track-prompt": "mixtur=x"}, "--track-prompt: unknown value 'mixtur', did you mean 'mix"),
        ({"track-prompt": "source=x"}, "--track-prompt source: that is what --prompt is for"),
        ({"example": "text.wav"}, "text.wav: not readable as audio"),
        ({"example": "song.wav"}, "--example: .*model.json has texts for prompts only"),
        ({"text-weight": 2}, "text_weight: expected 0 to 1, found 2.0"),
        ({"text-weight": 0.3}, "--text-weight: weighs --prompt against --example, found one"),
        ({"keep": "song.wav"}, "--keep and --redo: expected both or none, found one of them"),
        ({"redo": "1-2"}, "--keep and --redo: expected both or none, found one of them"),
        (KEEP | {"redo": "1"}, "--redo: expected START-END, such as 0:40-0:52 or .*, found '1'"),
        (KEEP | {"redo": "a-2"}, "--redo: expected START-END, such as .*, found 'a-2'"),
        (KEEP | {"redo": "1-2-3"}, "--redo: expected START-END, such as .*, found '1-2-3'"),
        (KEEP | {"redo": "2-1"}, "--redo: expected an end after the start, found '2-1'"),
        (KEEP | {"redo": "0:01-0:02"}, "--redo: expected seconds of song.wav, which has 0.06"),
        (
            KEEP | {"keep": "short.wav"},
            "--keep: expected 900 samples at 16000 Hz as song.wav has, found 500 at 16000 Hz",
        ),
        ({"device": "gpu"}, "device: expected auto or one of .*cpu, found 'gpu'"),
        ({"device": "cuda:99"}, "device: expected auto or one of .*cpu, found 'cuda:99'"),
        ({"ckpt": "absent.ckpt"}, "absent.ckpt: no such file"),
        ({"ckpt": "page.ckpt"}, "page.ckpt: not a readable checkpoint"),
        ({"ckpt": "other.ckpt"}, r"other.ckpt: does not fit the model config: \d+ misshapen"),
        ({"model-config": "absent.json"}, "absent.json: cannot be read"),
        ({"model-config": "broken.json"}, "broken.json: not valid JSON"),
        ({"model-config": "odd.json"}, "odd.json: sample_size 100 is not divisible"),
        ({"model-config": ROOT / "model_configs" / "mge_vae_tiny.json"}, "not a three-track model"),
        ({"out": "song.wav"}, "song.wav: File exists"),
        ({"out": "song.wav/out"}, "song.wav/out: Not a directory"),
    ],
    ids=str,
)
def test_an_expected_error_is_one_line_and_leaves_nothing_behind(
    mge, files, tmp_path, monkeypatch, recwarn, changes, message
):
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    options = files | {"out": "out", "steps": 1, "device": "cpu"} | changes
    song = options.pop("song")
    code, out, err = mge("extract", song, *(f"--{key}={value}" for key, value in options.items()))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not recwarn.list
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("extract", ["song.wav"], "extract: expected --prompt or --example, found none"),
        ("compose", [], "compose: expected --prompt or --example, found none"),
        ("replace", ["song.wav", "--with=x"], "replace: expected --prompt or --example, found"),
        ("replace", ["song.wav", "--prompt=x", "--with="], "prompt: expected words such as"),
        ("generate", ["--prompt="], "prompt: expected words such as"),
        ("generate", ["--seed", 2**63 - 1, "--number=2"], "seed: expected 0 to .*, found 9223372"),
        (
            "generate",
            ["--example=a.wav", "--example=b.wav"],
            "generate: expected one prompt, found",
        ),
        ("generate", [*KEPT, "--seconds=1"], "--seconds: with --keep, that track says how"),
        ("generate", ["--track-prompt=source=a", "--track-prompt=source=b"], ".* once, found 'b'"),
        ("extract", ["song.wav", "short.wav", *KEPT, "--prompt=x"], "--keep: .* found 2 songs"),
        ("add", ["song.wav", *KEPT, "--prompt=x", "--prompt=y"], "--keep: .*, found 2 prompts"),
        (
            "extract",
            ["song.wav", "--prompt=x", "--prompt=y", "--example=song.wav"],
            "--example: expected one for each of 2 prompts, found 1",
        ),
    ],
)
def test_what_does_not_go_together_is_told_before_the_model_is_loaded(
    mge, files, tmp_path, monkeypatch, command, arguments, message
):
    def load(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("mge_plugin.inference.pipeline.load", load)
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes((tmp_path / "song.wav").read_bytes())
    model = [f"--model-config={files['model-config']}", f"--ckpt={files['ckpt']}"]
    code, out, err = mge(command, *arguments, *model)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert re.match(f"error: {message}", line), line


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: y")],
)
def test_a_device_without_memory_is_one_line_that_says_what_would_fit(task, monkeypatch, error):
    def run(*_):
        raise error

    monkeypatch.setattr("mge_plugin.inference.denoiser.Engine.denoise", run)
    code, out, err = task("generate")
    assert (code, out) == (1, "")
    assert re.search("error: not enough memory on cpu for 4 windows .*try window_batch 2", err)


def test_a_folder_that_cannot_be_written_to_is_told_before_the_model_is_loaded(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr("mge_plugin.inference.pipeline.load", None)
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)
    code, _, err = task("generate")
    assert (code, err) == (1, f"error: --out: {tmp_path / 'out'} cannot be written to\n")


def test_samples_that_are_no_numbers_are_an_error_and_not_a_file(mge, tiny, tmp_path, write_song):
    content = torch.load(tiny[3], weights_only=True)
    content["state_dict"]["model.model.preprocess_conv.weight"].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    song = write_song(tmp_path / "song.wav", 900)
    options = ["--prompt", "bass", "--ckpt", tmp_path / "nan.ckpt", "--out", tmp_path / "out"]
    code, out, err = mge("extract", song, *tiny[:2], *options, "--steps", 1, "--device", "cpu")
    assert (code, out) == (1, "")
    assert "error: the model made NaN or infinite samples" in err.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())


def test_an_error_of_several_lines_is_told_in_one():
    assert console.sentence(ValueError("one\n  two\n")) == "one two"
    assert console.sentence(ValueError()) == "ValueError"


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("MGE_DEBUG", "1")
    arguments = ["--prompt=", "--ckpt=m.ckpt", "--model-config=m.json"]
    monkeypatch.setattr(sys, "argv", ["mge", "extract", "a.wav", *arguments])
    with pytest.raises(ValueError, match="prompt: expected words"):
        cli.main()
