"""What each task writes, and that its options arrive."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin.cli import options
from mge_plugin.cli import tasks as asked
from mge_plugin.cli.app import span
from mge_plugin.inference.pipeline import DTYPES
from mge_plugin.inference.request import Result
from mge_plugin.inference.sampling import sampler_names
from mge_plugin.tracks import TASKS, Track

NO_GATE = "--no-gate"
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def song(tmp_path, write_song):
    """A short stereo song, at another rate than the model's."""
    return write_song(tmp_path / "song.wav", 3000, 22050, 2)


@pytest.fixture
def recorded(monkeypatch):
    """A model that hears and makes silence, and what it was asked: (requests, sampling)."""
    asked = []

    def run(requests, sampling, _):
        asked.append((requests, sampling))
        return [Result({"source": np.zeros((1, 9), np.float32)}, 9, {"tracks": {}})]

    pipeline = SimpleNamespace(
        supports_audio=True,
        model=SimpleNamespace(diffusion_objective="v"),
        steps=lambda _: 1,
        run=run,
    )
    monkeypatch.setattr("mge_plugin.inference.pipeline.load", lambda *_: pipeline)
    return asked


def read(path):
    return sf.read(path, dtype="float32", always_2d=True)[0]


def test_several_prompts_are_extracted_in_one_run_and_sum_to_the_song(task, made, song):
    code, out, err = task("extract", song, "--prompt=bass", "--prompt=drums", NO_GATE)
    assert code == 0, err
    audio, infos = made()
    names = [f"song_bass_drums_{n}.wav" for n in ("source_1", "source_2", "residual")]
    assert out.splitlines() == [f"Wrote {song.parent / 'out' / name}" for name in names]
    np.testing.assert_allclose(sum(audio[name] for name in names), read(song), atol=1e-6)
    tracks = infos["song_bass_drums.json"]["tracks"]
    assert [tracks[f"source_{i}"]["prompt"] for i in (1, 2)] == ["bass", "drums"]


@pytest.mark.parametrize("prompts", [["bass"], ["bass", "drums"]])
def test_added_sources_and_the_song_are_the_mixture(task, made, song, prompts):
    code, _, err = task("add", song, *(f"--prompt={prompt}" for prompt in prompts))
    assert code == 0, err
    audio, _ = made()
    mixture = audio.pop(f"song_{'_'.join(prompts)}_mixture.wav")
    assert len(audio) == len(prompts)
    assert all(source.any() for source in audio.values())
    np.testing.assert_allclose(read(song) + sum(audio.values()), mixture, atol=1e-6)


@pytest.mark.parametrize(("options", "name"), [(["--prompt=rock"], "rock"), ([], "unconditional")])
def test_an_accompaniment_and_its_source_are_the_mixture(task, made, song, options, name):
    code, _, err = task("accompany", song, *options)
    assert code == 0, err
    audio, _ = made()
    assert audio.keys() == {f"song_{name}_{track}.wav" for track in ("submixture", "mixture")}
    submixture, mixture = audio[f"song_{name}_submixture.wav"], audio[f"song_{name}_mixture.wav"]
    assert submixture.any()
    np.testing.assert_allclose(read(song) + submixture, mixture, atol=1e-6)


def test_composed_sources_are_the_mixture(task, made):
    options = ["--prompt=bass", "--prompt=drums", "--seconds=0.1", "--number=2", "--seed=3"]
    code, out, err = task("compose", *options)
    assert code == 0, err
    assert out.splitlines()[-1] == "2 done, 0 already there, 0 failed"
    audio, infos = made()
    assert [info["seed"] for info in infos.values()] == [3, 4]
    for seed in (3, 4):
        names = [f"bass_drums_seed{seed}_{n}.wav" for n in ("source_1", "source_2", "mixture")]
        first, second, mixture = (audio[name] for name in names)
        assert mixture.shape == (1600, 1)
        np.testing.assert_allclose(first + second, mixture, atol=1e-6)


def test_a_replacement_is_the_song_without_one_source_and_with_another(task, made, song):
    code, _, err = task("replace", song, "--prompt=bass", "--with=a tuba", NO_GATE)
    assert code == 0, err
    audio, infos = made()
    source, mixture, removed, residual = (
        audio[f"song_bass_with_a_tuba_{n}.wav"]
        for n in ("source", "mixture", "removed", "residual")
    )
    np.testing.assert_allclose(removed + residual, read(song), atol=1e-6)
    np.testing.assert_allclose(source + residual, mixture, atol=1e-6)
    assert source.any()
    assert "sampling: 100%" in err
    assert "4/4" in err  # two steps for either
    (info,) = infos.values()
    assert info["tracks"]["removed"]["prompt"] == "bass"
    assert info["tracks"]["source"]["prompt"] == "a tuba"
    assert task("replace", song, "--prompt=bass", "--with=a tuba", NO_GATE)[1][:13] == (
        "Already there"
    )


def test_numbered_results_are_those_of_the_seeds_themselves(task, made):
    for out, arguments in {"a": ["--number=2", "--seed=6", "--batch=2"], "b": ["--seed=7"]}.items():
        assert task("generate", "--prompt=x", *arguments, out=out)[0] == 0
    several, alone = made("a")[0], made("b")[0]
    assert list(several) == ["x_seed6_mixture.wav", "x_seed7_mixture.wav"]
    np.testing.assert_allclose(
        several["x_seed7_mixture.wav"], alone["x_seed7_mixture.wav"], atol=1e-5
    )


def test_redo_changes_nothing_outside_of_its_spans(task, made, tmp_path, write_song):
    song = write_song(tmp_path / "song.wav", 10_000)
    assert task("extract", song, "--prompt=bass", NO_GATE, out="first")[0] == 0
    track = tmp_path / "first" / "song_bass_source.wav"
    spans = ["--redo=0.1-0.2", "--redo=0:00.4-0:00.5"]
    options = ["--prompt=bass", NO_GATE, "--seed=1", "--keep", track, *spans]
    code, _, err = task("extract", song, *options)
    assert code == 0, err
    source = made()[0]["song_bass_source.wav"][:, 0]
    anew = np.zeros(10_000, dtype=bool)
    anew[1600:3200] = anew[6400:8000] = True
    kept = read(track)[:, 0]
    assert np.array_equal(source[~anew], kept[~anew])
    assert (source[anew] != kept[anew]).mean() > 0.5
    np.testing.assert_allclose(
        made()[0]["song_bass_residual.wav"][:, 0] + source, read(song)[:, 0], atol=1e-6
    )


def test_a_kept_mixture_says_how_long_what_is_generated_is(task, made, song):
    code, _, err = task("generate", "--keep", song, "--redo=0-0.01")
    assert code == 0, err
    (mixture,) = made()[0].values()
    assert np.array_equal(mixture[221:], read(song)[221:])


@pytest.mark.parametrize("text", [None, "a soft bass"])
def test_an_audio_example_goes_to_the_prompted_track(task, recorded, song, text):
    words = [] if text is None else ["--prompt", text, "--text-weight", 0.7]
    code, _, err = task("extract", song, "--example", song, *words)
    assert code == 0, err
    ((((request,), _)),) = recorded
    (prompt,) = request.prompts
    assert torch.equal(prompt["audio"], torch.from_numpy(read(song).T))
    assert prompt["sample_rate"] == 22050
    weighed = {} if text is None else {"text": text, "text_weight": 0.7}
    assert {k: v for k, v in prompt.items() if k not in ("audio", "sample_rate")} == weighed


def test_all_that_is_asked_arrives(task, recorded, song):
    arguments = ["--prompt=bass", "--track-prompt=mixture=a = b", "--negative=drums", "--seed=4"]
    arguments += ["--cfg-scale=1,2,3", "--cfg-interval=0.1,0.9", "--cfg-rescale=0.3"]
    arguments += ["--apg-scale=0.4", "--sampler=repaint", "--resamplings=3", "--candidates=2"]
    arguments += ["--window-batch=1", "--long-form=sequential", "--schedule=log-snr"]
    arguments += ["--refine=mask", NO_GATE, "--gate-threshold=0.2"]
    code, _, err = task("extract", song, *arguments)
    assert code == 0, err
    ((((request,), sampling)),) = recorded
    assert request.prompts == ({"mixture": "a = b", "source": "bass"},)
    assert (request.negative, request.seed, request.sample_rate) == ("drums", 4, 22050)
    assert sampling == Sampling(
        steps=2,
        cfg_scale=(1.0, 2.0, 3.0),
        seed=4,
        window_batch=1,
        refine="mask",
        sampler="repaint",
        schedule="log-snr",
        resamplings=3,
        cfg_interval=(0.1, 0.9),
        cfg_rescale=0.3,
        apg_scale=0.4,
        long_form="sequential",
        candidates=2,
        gate=False,
        gate_threshold=0.2,
    )


def test_the_options_of_the_command_line_are_those_of_the_tasks():
    for objective, names in options.SAT_SAMPLERS.items():
        assert sampler_names(objective) == (*options.OUR_SAMPLERS, *names)
        assert set(names) <= set(options.SAMPLERS)
    assert ("auto", *DTYPES) == options.DTYPES
    assert tuple(track.label for track in Track) == asked.TRACKS
    prompted = {name: task.prompted.label for name, task in TASKS.items()}
    assert prompted == asked.PROMPTED
    assert set(asked.SEVERAL) == {name for name, task in TASKS.items() if task.several}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:40-0:52", (40, 52)), ("1-2.5", (1, 2.5)), ("1:02:03-1:02:04", (3723, 3724))],
)
def test_a_span_is_in_seconds_or_minutes(text, seconds):
    assert span("--redo", text) == seconds


def test_a_variation_is_as_its_sound_and_is_another_request(mge, tiny, tmp_path, write_song):
    sound = write_song(tmp_path / "sound.wav", 3000, 44100, 2)
    line = ["generate", *tiny, "--out", tmp_path / "out", "--steps", 2, "--device", "cpu"]
    assert mge(*line, "--init", sound, "--init-level", "0.05")[0] == 0
    (made,) = (tmp_path / "out").glob("*.wav")
    info = sf.info(made)
    assert (info.samplerate, info.channels, info.frames) == (44100, 2, 3000)
    code, _, err = mge(*line, "--init", sound, "--init-level", "0.5")
    assert code == 1 and "init_level: found 0.05, asked 0.5" in err


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--init-level", "0"], "--init-level: expected over 0 and up to 1, found 0.0"),
        (["--seconds", "3"], "--seconds: with --init, that track says how long"),
        (["--init", "absent.wav"], "absent.wav: "),
    ],
)
def test_a_variation_that_cannot_be_is_refused(mge, tiny, tmp_path, write_song, options, wrong):
    sound = write_song(tmp_path / "sound.wav", 900)
    line = ["generate", *tiny, "--out", tmp_path / "out", "--init", sound, *options]
    code, _, err = mge(*line, "--device", "cpu")
    assert code == 1 and wrong in err
