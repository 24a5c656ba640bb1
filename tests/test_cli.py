import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin import cli, doctor
from mge_plugin.models.mge import create_mge_model

ROOT = Path(__file__).parents[1]
RATE, WINDOW, HOP = 16000, 2048, 1536  # of the tiny model, in Hz and samples
PROMPT = "the sound of the bass"

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def tiny_config(latent_dim=4):
    """The shipped tiny config with all sizes made smaller: windows of 8 frames of 256 samples."""
    config = json.loads((ROOT / "model_configs" / "mge_dit_tiny.json").read_text())
    model, autoencoder = config["model"], config["model"]["pretransform"]["config"]
    blocks = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4]}
    autoencoder["encoder"]["config"] |= blocks | {"in_channels": 32, "latent_dim": 2 * latent_dim}
    autoencoder["decoder"]["config"] |= blocks | {"out_channels": 32, "latent_dim": latent_dim}
    autoencoder |= {"latent_dim": latent_dim, "in_channels": 32, "out_channels": 32}
    autoencoder["pretransform"]["config"]["patch_size"] = 32
    autoencoder["downsampling_ratio"] = 256
    model["io_channels"] = 3 * latent_dim
    size = {"io_channels": 3 * latent_dim, "embed_dim": 96, "num_heads": 3, "depth": 1}
    model["diffusion"]["config"] |= size
    return config | {"sample_size": WINDOW, "sample_rate": RATE, "audio_channels": 1}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small is a hundred times slower on two threads of a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Options of the command line that name a model with random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model.json").write_text(json.dumps(tiny_config()))
    torch.manual_seed(0)
    model = create_mge_model(tiny_config())
    for parameter in model.model.parameters():  # or its zeros make it deaf to prompts
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"state_dict": model.state_dict()}, folder / "model.ckpt")
    return ["--model-config", str(folder / "model.json"), "--ckpt", str(folder / "model.ckpt")]


@pytest.fixture
def mge(monkeypatch, capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def extract(mge, tiny, tmp_path):
    """Extract from a song into a folder, and read what was written: audio by name."""

    def run(song, *options, prompt=PROMPT, out="out"):
        out = tmp_path / out
        arguments = ["--prompt", prompt, "--out", out, "--steps", 2, "--device", "cpu", *options]
        code, _, err = mge("extract", song, *tiny, *arguments)
        assert code == 0, err
        files = {path.stem.rpartition("_")[2]: path for path in out.glob("*.wav")}
        return {name: sf.read(path, dtype="float32")[0] for name, path in files.items()}

    return run


def write_song(path, frames, rate=RATE, channels=1, seed=0):
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels))
    sf.write(path, noise, rate)
    return path


def run_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def run_main(*arguments):
    """The real command in a process of its own, and which slow packages it imported."""
    return run_python(
        "import atexit, sys\n"
        "slow = ('torch', 'gradio', 'stable_audio_tools')\n"
        "atexit.register(lambda: print('SLOW', [m for m in slow if m in sys.modules]))\n"
        "from mge_plugin.cli import main\n"
        f"sys.argv = {['mge', *map(str, arguments)]}\n"
        "main()\n"
    )


def test_importing_the_package_is_cheap():
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


def test_help_names_every_command_and_imports_nothing_slow():
    result = run_main("--help")
    assert result.returncode == 0
    for command in ("demo", "doctor", "check", "minislakh", "extract", "generate", "run"):
        assert f" {command} " in result.stdout
    assert result.stdout.rstrip().endswith("SLOW []")


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "absent.wav", "--prompt", "x", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("extract", "a.wav", "--prompt", "", "--model-config", "m.json", "--ckpt", "m.ckpt"),
        ("check", "absent.json"),
    ],
)
def test_a_slip_is_told_before_anything_slow_is_imported(arguments):
    result = run_main(*arguments)
    assert result.returncode == 1
    assert result.stdout == "SLOW []\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith(("error: ", "problem: "))


@pytest.mark.parametrize(
    ("rate", "channels", "frames"),
    [
        (44100, 2, 1),
        (44100, 2, 900),
        (44100, 2, 14000),
        (16000, 1, 1),
        (16000, 1, 900),
        (16000, 1, WINDOW),
        (16000, 1, 2 * WINDOW + 1001),
        (8000, 6, 500),
    ],
)
def test_source_and_residual_have_the_songs_form_and_sum_to_it(
    extract, tmp_path, rate, channels, frames
):
    song = write_song(tmp_path / "song.wav", frames, rate, channels)
    audio = extract(song)
    mixture, _ = sf.read(song, dtype="float32")
    assert audio.keys() == {"source", "residual"}
    for name in audio:
        info = sf.info(tmp_path / "out" / f"song_the_sound_of_the_bass_{name}.wav")
        form = (info.samplerate, info.channels, info.frames, info.format, info.subtype)
        assert form == (rate, channels, frames, "WAV", "FLOAT")
    source, residual = audio["source"], audio["residual"]
    assert np.isfinite(source).all()
    largest = np.maximum.reduce([abs(source), abs(residual), abs(mixture)])
    assert (abs(source + residual - mixture) <= np.spacing(largest)).all()
    if frames > 1:
        assert source.std() > 1e-3


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff"])
def test_any_common_audio_file_will_do(extract, tmp_path, suffix):
    song = write_song(tmp_path / f"song.{suffix}", 5000, 44100, 2)
    mixture, _ = sf.read(song, dtype="float32")
    assert extract(song)["source"].shape == mixture.shape


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (16000, 1)])
def test_silence_stays_silence(extract, tmp_path, rate, channels):
    sf.write(tmp_path / "song.wav", np.zeros((14000, channels)), rate)
    audio = extract(tmp_path / "song.wav")
    assert not audio["source"].any()
    assert not audio["residual"].any()
    info = json.loads((tmp_path / "out" / "song_the_sound_of_the_bass.json").read_text())
    assert info["levels"] == {"source": {"rms_db": None}, "residual": {"rms_db": None}}


def test_where_whole_windows_are_silent_so_is_the_source(extract, tmp_path):
    mixture = np.zeros(3 * WINDOW)
    mixture[HOP + WINDOW :] = 0.1  # after the second window
    sf.write(tmp_path / "song.wav", mixture, RATE, subtype="FLOAT")
    source = extract(tmp_path / "song.wav")["source"]
    assert not source[: 2 * HOP].any()
    assert source[2 * HOP :].all()


def test_the_same_seed_gives_the_same_samples_and_another_seed_or_prompt_others(extract, tmp_path):
    song = write_song(tmp_path / "song.wav", 5000)
    first, same, seed, prompt = (
        extract(song, "--seed", seed, prompt=prompt, out=out)
        for out, seed, prompt in (
            ("a", 3, "bass"),
            ("b", 3, "bass"),
            ("c", 4, "bass"),
            ("d", 3, "x"),
        )
    )
    for name in ("source", "residual"):
        assert first[name].tobytes() == same[name].tobytes()
    infos = [(tmp_path / out / "song_bass.json").read_bytes() for out in "ab"]
    assert infos[0] == infos[1]
    for other in (seed, prompt):
        assert abs(first["source"] - other["source"]).max() > 1e-3


def test_guidance_changes_the_result(extract, tmp_path):
    song = write_song(tmp_path / "song.wav", 900)
    plain, guided = (extract(song, "--cfg-scale", s, out=s)["source"] for s in ("1", "3"))
    assert abs(plain - guided).max() > 1e-3


def test_a_json_file_says_how_it_was_made(extract, tiny, tmp_path):
    song = write_song(tmp_path / "song.wav", 900)
    extract(song, "--seed", 5, "--cfg-scale", 1.5)
    info = json.loads((tmp_path / "out" / "song_the_sound_of_the_bass.json").read_text())
    assert info.pop("levels").keys() == {"source", "residual"}
    assert info == {
        "song": str(song),
        "model_config": tiny[1],
        "ckpt": tiny[3],
        "task": "extract",
        "prompt": PROMPT,
        "steps": 2,
        "cfg_scale": 1.5,
        "seed": 5,
        "window_batch": 4,
    }


def test_names_in_any_script_and_of_any_length_make_file_names(extract, tmp_path):
    song = write_song(tmp_path / f"{'歌' * 70}.wav", 900)
    audio = extract(song, prompt="コントラバスの音" * 20)
    assert audio.keys() == {"source", "residual"}


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b: c?", "a_b_c"), ("../..", "untitled"), ("", "untitled"), ("é" * 99, "é" * 50)],
)
def test_a_file_stem_is_safe_on_any_file_system(text, name):
    assert cli.file_stem(text) == name


def test_nothing_but_the_result_is_written(mge, tiny, tmp_path, recwarn):
    song = write_song(tmp_path / "song.wav", 900)
    options = ["--prompt", "bass", "--out", tmp_path, "--steps", 1, "--device", "cpu"]
    code, out, err = mge("extract", song, *tiny, *options)
    names = ("song_bass_source.wav", "song_bass_residual.wav")
    assert (code, out) == (0, "".join(f"Wrote {tmp_path / name}\n" for name in names))
    assert err.lstrip().startswith("sampling")
    assert not recwarn.list
    assert {p.name for p in tmp_path.iterdir()} == {"song.wav", "song_bass.json", *names}


@pytest.fixture(scope="module")
def other_ckpt(tmp_path_factory):
    """Weights of a model with twice the latent channels."""
    path = tmp_path_factory.mktemp("other") / "other.ckpt"
    torch.save(create_mge_model(tiny_config(8)).state_dict(), path)
    return path


@pytest.fixture
def files(tiny, other_ckpt, tmp_path):
    """Good and bad files for a run; what each is called says what is wrong with it."""
    write_song(tmp_path / "song.wav", 900)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").touch()
    sf.write(tmp_path / "nan.wav", np.full(10, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>")
    (tmp_path / "other.ckpt").symlink_to(other_ckpt)
    (tmp_path / "odd.json").write_text(json.dumps(tiny_config() | {"sample_size": 100}))
    (tmp_path / "broken.json").write_text("{")
    return {"model-config": tiny[1], "ckpt": tiny[3], "song": "song.wav", "prompt": "bass"}


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


def test_an_error_of_several_lines_is_told_in_one():
    assert cli._sentence(ValueError("one\n  two\n")) == "one two"
    assert cli._sentence(ValueError()) == "ValueError"


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("MGE_DEBUG", "1")
    arguments = ["--prompt=", "--ckpt=m.ckpt", "--model-config=m.json"]
    monkeypatch.setattr(sys, "argv", ["mge", "extract", "a.wav", *arguments])
    with pytest.raises(ValueError, match="prompt: expected words"):
        cli.main()


def generate(mge, tiny, out, *options):
    arguments = ["--out", out, "--steps", 2, "--device", "cpu", *options]
    code, _, err = mge("generate", *tiny, *arguments)
    return code, err, {path.stem: sf.read(path, dtype="float32") for path in out.glob("*.wav")}


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


def test_check_says_ok_or_every_problem(mge, tmp_path):
    config = ROOT / "model_configs" / "mge_dit_tiny.json"
    assert mge("check", config) == (0, "ok: everything fits\n", "")
    (tmp_path / "bad.json").write_text(
        json.dumps(tiny_config() | {"sample_size": 1, "model_type": 2})
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
