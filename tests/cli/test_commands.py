import json
import os
import sys
from itertools import product
from pathlib import Path

import pytest
import soundfile as sf

from mge_plugin import doctor

ROOT = Path(__file__).parents[2]
RATE, WINDOW = 16000, 2048  # of the tiny model, in Hz and samples
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


def generate(mge, tiny, out, *options):
    arguments = ["--out", out, "--steps", 2, "--device", "cpu", *options]
    code, _, err = mge("generate", *tiny, *arguments)
    return code, err, {path.stem: sf.read(path, dtype="float32") for path in out.glob("*.wav")}


def test_importing_the_package_is_cheap(run_python):
    result = run_python(
        "import sys, time\n"
        "start = time.perf_counter()\n"
        "import mge_plugin\n"
        "print(time.perf_counter() - start)\n"
        "print([m for m in ('torch', 'gradio', 'numpy') if m in sys.modules])\n"
    )
    seconds, imported = result.stdout.splitlines()
    assert float(seconds) < 0.3
    assert imported == "[]"


def test_help_names_every_command_and_imports_nothing_slow(run_main):
    result = run_main("--help")
    assert result.returncode == 0
    for command in ("demo", "doctor", "check", "minislakh", "extract", "generate", "run"):
        assert f" {command} " in result.stdout
    assert result.stdout.rstrip().endswith("SLOW []")


def test_generate_makes_a_mixture_of_the_length_asked_for(mge, tiny, tmp_path):
    options = ["--prompt", "a slow song", "--seconds", "0.3", "--seed", 7]
    code, err, audio = generate(mge, tiny, tmp_path, *options)
    assert code == 0, err
    ((name, (mixture, rate)),) = audio.items()
    assert (name, rate, mixture.shape) == ("a_slow_song_seed7_mixture", RATE, (4800,))
    assert mixture.std() > 1e-3


def test_generate_without_a_prompt_or_length_makes_one_window(mge, tiny, tmp_path):
    code, err, audio = generate(mge, tiny, tmp_path)
    assert code == 0, err
    assert audio["unconditional_seed0_mixture"][0].shape == (WINDOW,)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_length_that_cannot_be_is_refused(mge, tiny, tmp_path, seconds):
    code, err, audio = generate(mge, tiny, tmp_path, "--seconds", seconds)
    assert (code, audio) == (1, {})
    assert err.startswith("error: seconds: expected a number above 0, found ")


def test_check_says_ok_or_every_problem(mge, tmp_path, tiny_config):
    config = ROOT / "model_configs" / "mge_dit_tiny.json"
    assert mge("check", config) == (0, "ok: everything fits\n", "")
    (tmp_path / "bad.json").write_text(
        json.dumps(tiny_config | {"sample_size": 1, "model_type": 2})
    )
    code, out, err = mge("check", tmp_path / "bad.json", tmp_path / "absent.json")
    assert (code, out) == (1, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["problem"] * 3


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


def test_doctor_fails_when_something_is_wrong(mge, monkeypatch):
    monkeypatch.setattr(doctor, "EXAMINATIONS", {"a": lambda: ("1.0", None)})
    assert mge("doctor") == (0, f"{'a':22} 1.0\n", "")
    monkeypatch.setitem(doctor.EXAMINATIONS, "b", lambda: ("missing", "pip install b"))
    code, out, err = mge("doctor")
    assert (code, len(out.splitlines()), err) == (1, 2, "problem: b: pip install b\n")


def test_run_hands_its_arguments_to_the_launcher_as_they_are(mge, monkeypatch):
    class Replaced(SystemExit):
        """The process is another program's now."""

    def execv(program, arguments):
        assert (program, arguments[0]) == (sys.executable, sys.executable)
        raise Replaced(arguments[1:])

    monkeypatch.setattr(os, "execv", execv)
    code, _, _ = mge("run", "--cpu", "train.py", "--name", "a b", "--help")
    assert code == ["-m", "mge_plugin", "--cpu", "train.py", "--name", "a b", "--help"]
