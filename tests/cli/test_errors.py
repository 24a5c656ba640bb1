import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import cli
from mge_plugin.cli import console

ROOT = Path(__file__).parents[2]
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
    return {"model-config": tiny[1], "ckpt": tiny[3], "song": "song.wav", "prompt": "bass"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "absent.wav", "--prompt", "x", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("extract", "a.wav", "--prompt", "", "--model-config", "m.json", "--ckpt", "m.ckpt"),
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
        ({"song": "."}, "it is a folder"),
        ({"prompt": ""}, "prompt: expected words such as 'the sound of the bass', found ''"),
        ({"prompt": " "}, "prompt: expected words such as 'the sound of the bass', found ' '"),
        ({"steps": 0}, "steps: expected 1 or more, found 0"),
        ({"steps": -3}, "steps: expected 1 or more, found -3"),
        ({"seed": -1}, "seed: expected 0 to 9223372036854775807, found -1"),
        ({"seed": 2**63}, "seed: expected 0 to 9223372036854775807, found 9223372036854775808"),
        ({"cfg-scale": "nan"}, "cfg_scale: expected a finite number, found nan"),
        ({"device": "gpu"}, "device: expected auto or one of .*cpu, found 'gpu'"),
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
    assert console._sentence(ValueError("one\n  two\n")) == "one two"
    assert console._sentence(ValueError()) == "ValueError"


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("MGE_DEBUG", "1")
    arguments = ["--prompt=", "--ckpt=m.ckpt", "--model-config=m.json"]
    monkeypatch.setattr(sys, "argv", ["mge", "extract", "a.wav", *arguments])
    with pytest.raises(ValueError, match="prompt: expected words"):
        cli.main()
