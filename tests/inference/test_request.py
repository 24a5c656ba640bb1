"""What a user requests: options and their bounds, audio in every form, names, records, remixes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import read_audio
from mge_plugin.inference.request import (
    Audio,
    Finish,
    Init,
    Keep,
    Request,
    Result,
    Sampling,
    parts,
    remix,
)
from mge_plugin.prompts import TrackPrompt, prompt_names, track_prompts
from mge_plugin.tracks import TASKS, Track

RATE = 16000


def test_requests_need_no_torch():
    code = (
        "import sys, mge_plugin.inference.request, mge_plugin.tracks\n"
        "sys.exit('torch' in sys.modules or 'stable_audio_tools' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": "20"}, "steps"),
        ({"window_batch": 0}, "window_batch"),
        ({"cfg_scale": float("inf")}, "cfg_scale"),
        ({"cfg_scale": (1.0, 2.0)}, "cfg_scale"),
        ({"cfg_scale": (1.0, 2.0, float("nan"))}, "cfg_scale"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"schedule": "cosine"}, "schedule"),
        ({"long_form": "x"}, "long_form"),
        ({"sampler": "dpm-solver"}, "dpm-solver\\+\\+"),
        ({"candidates": 10**6}, "candidates"),
        ({"resamplings": 10**9, "sampler": "repaint"}, "resamplings"),
        ({"resamplings": 2}, "repaint"),
        ({"eta": 0.5}, "ddim"),
        ({"schedule": "log-snr", "sampler": "k-heun"}, "schedule"),
        ({"eta": 1.5, "sampler": "ddim"}, "eta"),
        ({"cfg_interval": (0.5, 0.2)}, "cfg_interval"),
        ({"cfg_interval": (0.5,)}, "cfg_interval"),
    ],
    ids=str,
)
def test_options_outside_their_bounds_are_refused(options, key):
    with pytest.raises(ConfigError, match=key):
        Sampling(**options)


@pytest.mark.parametrize("options", [{"refine": "yes"}, {"gate": 1}, {"gate_threshold": -1}])
def test_finishing_options_outside_their_bounds_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Finish(**options)


def test_all_problems_are_in_one_error():
    with pytest.raises(ConfigError) as caught:
        Sampling(steps=0, seed=-1, eta=2.0)
    assert len(caught.value.problems) == 3


def test_numbers_of_numpy_and_lists_are_taken():
    sampling = Sampling(np.int64(5), [1, 2, 3], np.int64(7), eta=0, cfg_interval=np.array([0, 1]))
    assert sampling == Sampling(5, (1.0, 2.0, 3.0), 7)
    assert type(sampling.steps) is type(sampling.seed) is int
    json.dumps([sampling.cfg_scale, sampling.seed, sampling.cfg_interval])


def test_a_model_ships_its_own_sampling():
    config = {"sampling": {"steps": 7, "cfg_scale": [1, 1, 3], "cfg_interval": [0.1, 0.9]}}
    assert Sampling.of_model(config) == Sampling(7, (1.0, 1.0, 3.0), cfg_interval=(0.1, 0.9))
    assert Sampling.of_model({}) == Sampling() and Sampling().steps == 20
    with pytest.raises(ConfigError, match="step"):
        Sampling.of_model({"sampling": {"step": 7}})
    paper = Sampling.paper(seed=3)
    assert (paper.steps, paper.sampler, paper.cfg_scale, paper.seed) == (250, "ddim", 2.0, 3)


def test_audio_is_taken_in_every_form(tmp_path):
    path = tmp_path / "song.wav"
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 500)).astype(np.float32)
    sf.write(path, sound.T, RATE, subtype="FLOAT")
    with path.open("rb") as file:
        sources = [str(path), path, file, (sound, RATE), (torch.from_numpy(sound), np.int64(RATE))]
        found = [Audio.of(source) for source in (*sources, (sound.astype(np.float64), float(RATE)))]
    assert all(
        np.array_equal(audio.samples, sound) and audio.sample_rate == RATE for audio in found
    )
    assert [audio.name for audio in found[:3]] == ["song", "song", ""]
    assert Audio.of((sound[0], RATE)).samples.shape == (1, 500), "one axis is one channel"
    assert Audio.of(found[0]) is found[0] and found[0].seconds == 500 / RATE


@pytest.mark.parametrize(
    ("samples", "rate", "wrong"),
    [
        (np.zeros((500, 2), np.float32), RATE, "transposed"),
        (np.zeros((65, 100), np.float32), RATE, "transposed"),
        (np.zeros((1, 0), np.float32), RATE, "shape"),
        (np.zeros((1, 2, 3), np.float32), RATE, "shape"),
        (np.zeros((1, 9), np.int16), RATE, "int16"),
        (np.full((1, 9), np.inf, np.float32), RATE, "infinite"),
        (np.zeros((1, 9), np.float32), 0, "sample_rate"),
        (np.zeros((1, 9), np.float32), 16000.5, "sample_rate"),
        (np.zeros((1, 9), np.float32), None, "sample_rate"),
    ],
)
def test_audio_that_cannot_be_a_song_is_refused(samples, rate, wrong):
    with pytest.raises(ValueError, match=wrong):
        Audio.of((samples, rate))


def test_something_else_is_no_audio():
    with pytest.raises(TypeError, match="ndarray"):
        Audio.of(np.zeros((1, 9), np.float32))


def song(samples=900):
    return np.zeros((1, samples), np.float32), RATE


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"task": "remove"}, "remove"),
        ({"prompts": ()}, "prompts"),
        ({"prompts": [" "]}, "prompt"),
        ({"prompts": [{}]}, "prompt"),
        ({"prompts": [{"source": ""}]}, "prompt"),
        ({"prompts": [{"mixture": "a ballad"}]}, "source"),
        ({"prompts": ["x"] * 65}, "65"),
        ({"prompts": [{"sauce": "x"}]}, "sauce"),
        ({"task": "accompany", "prompts": ["a", "b"]}, "found 2"),
        ({"audio": None}, "mixture"),
        ({"task": "generate"}, "no audio"),
        ({"seconds": 1.0}, "seconds"),
        ({"task": "generate", "audio": None, "seconds": 1e9}, "seconds"),
        ({"task": "generate", "audio": None, "seconds": float("nan")}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"new_prompt": "x"}, "new_prompt"),
        ({"task": "replace"}, "prompt"),
        ({"keep": (99, [(0, 1)])}, "900 samples"),
        ({"keep": (900, ())}, "redo"),
        ({"keep": (900, [(2, 1)])}, "redo"),
        ({"keep": (900, [(0, 1)]), "prompts": ["a", "b"]}, "keep"),
        ({"init": 0.0}, "init"),
        ({"init": 1.5}, "init"),
        ({"init": 0.5, "prompts": ["a", "b"]}, "init"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused(fields, wrong):
    good = {"task": "extract", "prompts": "bass", "audio": song()}
    with pytest.raises(ValueError, match=wrong):
        if "keep" in fields:
            samples, redo = fields["keep"]
            fields = fields | {"keep": Keep(song(samples), redo)}
        if "init" in fields:
            fields = fields | {"init": Init(song(), fields["init"])}
        Request(**good | fields)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_prompt_is_that_of_the_tasks_track(task):
    audio, new = None if TASKS[task].given is None else song(), None
    if TASKS[task].new_prompt:
        new = "guitar"
    request = Request(task, "bass", audio, new_prompt=new, negative="noise")
    assert request.prompts == ({TASKS[task].prompted: TrackPrompt("bass")},)
    assert request.negative == {TASKS[task].prompted: TrackPrompt("noise")}
    if not TASKS[task].needs_prompt:
        assert Request(task, audio=audio).prompts == ({},)


def test_sources_are_named_by_their_instruments():
    prompts = ["The sound of the bass", "bass", "the sound of a soft piano", "Strings, legato"]
    prompts += [{"source": "drums", "mixture": "a ballad"}, "residual", {"embedding": [1.0]}]
    names = prompt_names([track_prompts(p, Track.SOURCE) for p in prompts], ["residual"])
    assert names == [
        "bass", "bass_2", "soft_piano", "Strings_legato", "drums", "residual_2", "example",
    ]  # fmt: skip


def result(task="add", **audio):
    rng = np.random.default_rng(0)
    tracks = {name: rng.uniform(-0.1, 0.1, (2, 90)).astype(np.float32) for name in audio}
    return Result(tracks, 44100, {"task": task, "tracks": {}}, name="my song")


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_result_is_saved_by_song_and_instrument(tmp_path, audio_format):
    made = result(bass=1, mixture=1)
    paths = made.save(tmp_path / "out", audio_format=audio_format, info={"by": "me"})
    assert [path.name for path in paths] == [
        f"my_song_{track}.{audio_format}" for track in ("bass", "mixture")
    ]
    for path, audio in zip(paths, made.audio.values(), strict=True):
        np.testing.assert_allclose(read_audio(path)[0], audio, atol=1e-6)
    record = json.loads((tmp_path / "out" / "my_song.json").read_text())
    assert record["files"] == {"bass": paths[0].name, "mixture": paths[1].name}
    assert (record["by"], record["task"]) == ("me", "add")


def test_tracks_that_flac_cannot_hold_become_wav(tmp_path):
    made = result(bass=1, mixture=1)
    made.audio["mixture"][0, 0] = 1.5
    assert {Path(path).suffix for path in made.save(tmp_path, "x", "flac")} == {".wav"}


@pytest.mark.parametrize(
    ("task", "audio", "expected"),
    [
        ("extract", ["bass", "residual"], ["bass", "residual"]),
        ("add", ["bass", "mixture"], ["bass", "submixture"]),
        ("accompany", ["submixture", "mixture"], ["submixture", "source"]),
        ("compose", ["bass", "drums", "mixture"], ["bass", "drums"]),
        ("generate", ["mixture"], ["mixture"]),
        ("replace", ["guitar", "mixture", "removed", "residual"], ["guitar", "residual"]),
    ],
)
def test_the_parts_of_a_result_sum_to_its_mixture(task, audio, expected):
    made = result(task, **dict.fromkeys(audio))
    assert list(parts(made.audio, task)) == expected
    if task in ("add", "accompany", "generate"):
        np.testing.assert_allclose(remix(made, {}), made.audio["mixture"], atol=1e-6)
