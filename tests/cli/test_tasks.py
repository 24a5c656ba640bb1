"""What each task writes, that its options arrive, and remixes of its results."""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.data.audio import flac_problem, write_flac
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.request import Finish, Sampling
from mge_plugin.tracks import Track

WINDOW, HOP, RATE = 2048, 1536, 16000  # of the tiny model
GATE_OFF = "--no-gate"  # random weights' sources are never found


@pytest.fixture
def song(tmp_path, write_song):
    """A short stereo song, at another rate than the model's."""
    return write_song(tmp_path / "song.wav", 3000, 22050, 2)


@pytest.fixture
def recorded(monkeypatch):
    """The requests that the pipeline runs."""
    requests, run = [], Pipeline.run

    def record(self, new, callback=None):
        requests.extend(new)
        return run(self, new, callback)

    monkeypatch.setattr(Pipeline, "run", record)
    return requests


def read(path):
    return sf.read(path, dtype="float32", always_2d=True)[0]


@pytest.mark.parametrize(
    ("rate", "channels", "frames"),
    [
        (44100, 2, 1),
        (44100, 2, 14000),
        (16000, 1, 1),
        (16000, 1, WINDOW),
        (16000, 1, 2 * WINDOW + 1001),
        (8000, 6, 500),
    ],
)
def test_source_and_residual_have_the_songs_form_and_sum_to_it(
    task, made, tmp_path, write_song, rate, channels, frames
):
    song = write_song(tmp_path / "song.wav", frames, rate, channels)
    code, _, err = task("extract", song, "bass", GATE_OFF)
    assert code == 0, err
    audio, mixture = made()[0], read(song)
    assert audio.keys() == {"song_bass.wav", "song_bass_residual.wav"}
    for name in audio:
        info = sf.info(tmp_path / "out" / name)
        form = (info.samplerate, info.channels, info.frames, info.format, info.subtype)
        assert form == (rate, channels, frames, "WAV", "FLOAT")
    source, residual = audio["song_bass.wav"], audio["song_bass_residual.wav"]
    largest = np.maximum.reduce([abs(source), abs(residual), abs(mixture)])
    assert (abs(source + residual - mixture) <= np.spacing(largest)).all()
    if frames > 1:
        assert source.std() > 1e-3


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_any_common_audio_file_is_read(task, made, tmp_path, write_song, suffix):
    song = write_song(tmp_path / f"song.{suffix}", 5000, 44100, 2)
    assert task("extract", song, "bass", GATE_OFF)[0] == 0
    assert made()[0]["song_bass.wav"].shape == read(song).shape


def test_silence_stays_silence(task, made, tmp_path):
    mixture = np.zeros(3 * WINDOW)
    mixture[HOP + WINDOW :] = 0.1  # after the second window
    sf.write(tmp_path / "half.wav", mixture, RATE, subtype="FLOAT")
    sf.write(tmp_path / "silent.wav", np.zeros((9000, 2)), 44100)
    assert task("extract", tmp_path / "half.wav", tmp_path / "silent.wav", "x", GATE_OFF)[0] == 0
    audio, infos = made()
    assert not audio["half_x.wav"][: HOP + WINDOW].any()
    assert audio["half_x.wav"][HOP + WINDOW :].all()
    assert not audio["silent_x.wav"].any() and not audio["silent_x_residual.wav"].any()
    levels = [track["rms_db"] for track in infos["silent_x.json"]["tracks"].values()]
    assert levels == [None, None]


def test_the_same_seed_gives_the_same_samples_and_other_options_others(
    task, made, tmp_path, write_song
):
    song = write_song(tmp_path / "song.wav", 900)
    first = ("--seed=3", "--prompt=bass")
    runs = {"a": first, "b": first, "c": ("--seed=4", "--prompt=bass"), "d": ("--prompt=x",)}
    runs["e"] = (*first, "--cfg-scale=3")
    sources = []
    for out, options in runs.items():
        assert task("extract", song, GATE_OFF, *options, out=out)[0] == 0
        sources.append(next(iter(made(out)[0].values())))
    assert sources[0].tobytes() == sources[1].tobytes()
    assert all(abs(source - sources[0]).max() > 1e-3 for source in sources[2:])


def test_the_json_has_the_request_and_how_it_was_carried_out(task, made, tiny, tmp_path, song):
    prompt = "The sound of the bass"
    options = ["--prompt", prompt, "--seed=5", "--cfg-scale=1.5", GATE_OFF]
    assert task("extract", song, *options)[0] == 0
    info = made()[1]["song_bass.json"]
    assert info["tracks"]["bass"]["prompt"] == prompt
    origin = {"song": str(song), "model_config": tiny[1], "ckpt": tiny[3], "task": "extract"}
    assert origin.items() <= info.items()
    values = {"steps": 2, "cfg_scale": 1.5, "seed": 5, "refine": "auto", "gate": False}
    assert values.items() <= info["sampling"].items()
    assert info["files"] == {"bass": "song_bass.wav", "residual": "song_bass_residual.wav"}
    request = info["request"]
    assert (request["task"], request["prompts"]) == ("extract", [prompt])
    assert request["ckpt"] == checkpoint_fingerprint(Path(tiny[3]))
    run = info["run"]
    assert (run["device"], run["dtype"]) == ("cpu", "float32")
    assert {"sample", "decode", "write"} <= info["seconds"].keys()
    assert run["peak_memory_mb"] > 0


def test_several_sources_and_the_residual_sum_to_the_song(task, made, song):
    code, out, err = task("extract", song, "bass", "drums", GATE_OFF)
    assert code == 0, err
    names = ["song_bass.wav", "song_drums.wav", "song_bass_drums_residual.wav"]
    assert out.splitlines() == [f"Wrote {song.parent / 'out' / name}" for name in names]
    np.testing.assert_allclose(sum(made()[0].values()), read(song), atol=1e-6)


def test_a_chain_extracts_each_source_from_what_the_one_before_left(task, made, recorded, song):
    code, _, err = task("extract", song, "bass", "drums", "--chain", GATE_OFF)
    assert code == 0, err
    audio, _ = made()
    np.testing.assert_allclose(sum(audio.values()), read(song), atol=1e-6)
    second = recorded[1].audio.samples.T
    np.testing.assert_allclose(audio["song_bass.wav"] + second, read(song), atol=1e-6)


def test_minus_writes_everything_but_a_source(task, made, song):
    assert task("extract", song, "bass", GATE_OFF)[0] == 0
    assert task("extract", song, "--minus", "bass", GATE_OFF, out="minus")[0] == 0
    ((name, audio),) = made("minus")[0].items()
    assert name == "song_without_bass.wav"
    assert np.array_equal(audio, made()[0]["song_bass_residual.wav"])


def test_all_writes_the_sources_that_are_in_the_song(
    mge, made, tiny, tiny_config, tmp_path, song, monkeypatch
):
    model = tmp_path / "model.json"
    model.write_text(json.dumps(tiny_config | {"card": {"labels": ["bass", "drums"]}}))
    run = Pipeline.run

    def with_bass(self, requests, callback):
        (result,) = run(self, requests, callback)
        result.info["tracks"]["bass"]["presence"]["score"] = 1.0
        return [result]

    monkeypatch.setattr(Pipeline, "run", with_bass)
    line = ["--model-config", model, *tiny[2:], "--steps=1", "--device=cpu"]
    code, _, err = mge("extract", song, "--all", *line, "--out", tmp_path / "out")
    assert code == 0, err
    assert list(made()[0]) == ["song_all_residual.wav", "song_bass.wav"]
    assert err.endswith("drums\n")  # not in the song


@pytest.mark.parametrize("prompts", [["bass"], ["bass", "drums"]])
def test_added_sources_and_the_song_are_the_mixture(task, made, song, prompts):
    code, _, err = task("add", song, *prompts)
    assert code == 0, err
    audio, _ = made()
    mixture = audio.pop(f"song_{'_'.join(prompts)}_mixture.wav")
    assert audio.keys() == {f"song_{prompt}.wav" for prompt in prompts}
    assert all(source.any() for source in audio.values())
    np.testing.assert_allclose(read(song) + sum(audio.values()), mixture, atol=1e-6)


@pytest.mark.parametrize(("options", "name"), [(["rock"], "rock"), ([], "unconditional")])
def test_an_accompaniment_and_its_source_are_the_mixture(task, made, song, options, name):
    code, _, err = task("accompany", song, *options)
    assert code == 0, err
    audio, _ = made()
    submixture, mixture = (audio[f"song_{name}_{track}.wav"] for track in ("submixture", "mixture"))
    assert submixture.any()
    np.testing.assert_allclose(read(song) + submixture, mixture, atol=1e-6)


def test_composed_sources_are_the_mixture(task, made):
    code, out, err = task("compose", "bass", "drums", "--seconds=0.1", "--number=2", "--seed=3")
    assert code == 0, err
    assert out.splitlines()[-1] == "2 done, 0 already there, 0 failed"
    audio, infos = made()
    assert [info["seed"] for info in infos.values()] == [3, 4]
    for seed in (3, 4):
        names = [f"bass_drums_seed{seed}_{n}.wav" for n in ("bass", "drums", "mixture")]
        first, second, mixture = (audio[name] for name in names)
        assert mixture.shape == (1600, 1)
        np.testing.assert_allclose(first + second, mixture, atol=1e-6)


def test_a_replacement_is_the_song_without_one_source_and_with_another(task, made, song):
    line = ["replace", song, "--prompt=bass", "--with=a tuba", GATE_OFF]
    code, _, err = task(*line)
    assert code == 0, err
    audio, infos = made()
    source = audio["song_a_tuba.wav"]
    mixture, removed, residual = (
        audio[f"song_bass_with_a_tuba_{n}.wav"] for n in ("mixture", "removed", "residual")
    )
    np.testing.assert_allclose(removed + residual, read(song), atol=1e-6)
    np.testing.assert_allclose(source + residual, mixture, atol=1e-6)
    assert source.any()
    (info,) = infos.values()
    assert info["request"]["prompts"] == ["bass", "a tuba"]
    assert task(*line)[1].startswith("Already there")


def test_generated_music_has_the_requested_length_or_one_window(task, made, tmp_path):
    assert task("generate", "a slow song", "--seconds=0.3", "--seed=7")[0] == 0
    assert task("generate")[0] == 0
    audio, _ = made()
    assert audio["a_slow_song_seed7_mixture.wav"].shape == (4800, 1)
    assert audio["a_slow_song_seed7_mixture.wav"].std() > 1e-3
    assert audio["unconditional_seed0_mixture.wav"].shape == (WINDOW, 1)


def test_a_manifest_of_new_music_has_one_result_per_line(task, made, tmp_path):
    lines = [{"prompt": "a waltz", "seconds": 0.05}, {"seed": 4, "name": "second", "seconds": 0.1}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    code, _, err = task("generate", "--manifest", path, "--seconds=1", "--prompt=rock")
    assert code == 0, err
    audio, infos = made()
    assert {name: track.shape[0] for name, track in audio.items()} == {
        "a_waltz_seed0_mixture.wav": 800,
        "second_seed4_mixture.wav": 1600,
    }
    assert infos["second_seed4.json"]["request"]["prompts"] == ["rock"]


def test_numbered_results_are_those_of_the_seeds_themselves(task, made):
    for out, options in {"a": ["--number=2", "--seed=6", "--batch=2"], "b": ["--seed=7"]}.items():
        assert task("generate", "x", *options, out=out)[0] == 0
    several, alone = made("a")[0], made("b")[0]
    assert list(several) == ["x_seed6_mixture.wav", "x_seed7_mixture.wav"]
    np.testing.assert_allclose(
        several["x_seed7_mixture.wav"], alone["x_seed7_mixture.wav"], atol=1e-5
    )


def test_redo_changes_nothing_outside_its_spans(task, made, tmp_path, write_song):
    song = write_song(tmp_path / "song.wav", 10_000)
    assert task("extract", song, "bass", GATE_OFF, out="first")[0] == 0
    track = tmp_path / "first" / "song_bass.wav"
    spans = ["--redo=0.1-0.2", "--redo=0:00.4-0:00.5"]
    code, _, err = task("extract", song, "bass", GATE_OFF, "--seed=1", "--keep", track, *spans)
    assert code == 0, err
    source = made()[0]["song_bass.wav"][:, 0]
    again = np.zeros(10_000, dtype=bool)
    again[1600:3200] = again[6400:8000] = True
    kept = read(track)[:, 0]
    assert np.array_equal(source[~again], kept[~again])
    assert (source[again] != kept[again]).mean() > 0.5


def test_a_variation_has_the_form_of_its_audio_and_is_another_request(task, tmp_path, song):
    line = ["generate", "--init", song, "--init-level"]
    assert task(*line, "0.05")[0] == 0
    info = sf.info(tmp_path / "out" / "unconditional_seed0_mixture.wav")
    assert (info.samplerate, info.channels, info.frames) == (22050, 2, 3000)
    code, _, err = task(*line, "0.5")
    assert code == 1 and "init_level" in err


def test_every_option_arrives(task, recorded, song, monkeypatch):
    monkeypatch.setattr(Pipeline, "supports_audio", True)
    monkeypatch.setattr(
        Pipeline, "run", lambda self, requests, _: recorded.extend(requests) or 1 / 0
    )
    arguments = ["--prompt=bass", "--track-prompt=mixture=a = b", "--negative=drums", "--seed=4"]
    arguments += ["--cfg-scale=1,2,3", "--cfg-interval=0.1,0.9", "--cfg-rescale=0.3"]
    arguments += ["--apg-scale=0.4", "--sampler=repaint", "--resamplings=3", "--candidates=2"]
    arguments += ["--window-batch=1", "--long-form=sequential", "--schedule=log-snr"]
    arguments += ["--refine=mask", GATE_OFF, "--gate-threshold=0.2", "--choose=mean"]
    arguments += ["--example", song, "--text-weight=0.7"]
    with pytest.raises(ZeroDivisionError):
        task("extract", song, *arguments)
    (request,) = recorded
    (prompt,) = request.prompts
    assert prompt[Track.MIXTURE].text == "a = b"
    source = prompt[Track.SOURCE]
    assert (source.text, source.text_weight, source.sample_rate) == ("bass", 0.7, 22050)
    assert np.array_equal(source.audio, read(song).T)
    assert request.negative[Track.SOURCE].text == "drums"
    assert (request.seed, request.audio.sample_rate) == (4, 22050)
    assert request.finish == Finish("mask", False, 0.2)
    assert request.sampling == Sampling(
        steps=2,
        cfg_scale=(1.0, 2.0, 3.0),
        seed=4,
        window_batch=1,
        sampler="repaint",
        schedule="log-snr",
        resamplings=3,
        cfg_interval=(0.1, 0.9),
        cfg_rescale=0.3,
        apg_scale=0.4,
        long_form="sequential",
        candidates=2,
        choose="mean",
    )


def test_sampling_defaults_are_the_models_or_the_papers(
    mge, tiny, tiny_config, tmp_path, song, monkeypatch
):
    model, requests = tmp_path / "model.json", []
    model.write_text(json.dumps(tiny_config | {"sampling": {"steps": 3, "cfg_scale": 1.5}}))
    monkeypatch.setattr(Pipeline, "run", lambda self, new, _: requests.extend(new) or 1 / 0)
    line = ["generate", "--model-config", model, *tiny[2:], "--device=cpu", "--out", tmp_path]
    for options in ([], ["--cfg-scale=4"], ["--paper"], ["--paper", "--steps=9"]):
        with pytest.raises(ZeroDivisionError):
            mge(*line, *options)
    assert [request.sampling for request in requests] == [
        Sampling(steps=3, cfg_scale=1.5),
        Sampling(steps=3, cfg_scale=4.0),
        Sampling(steps=250, sampler="ddim"),
        Sampling(steps=9, sampler="ddim"),
    ]


def test_a_flac_has_24_bits_and_the_same_sum(task, made, tmp_path, write_song):
    song = write_song(tmp_path / "a.wav", 900)
    options = ["bass", GATE_OFF, "--refine", "mask", "--format", "flac"]
    assert task("extract", song, *options)[0] == 0
    info = sf.info(tmp_path / "out" / "a_bass.flac")
    assert (info.format, info.subtype) == ("FLAC", "PCM_24")
    assert abs(sum(made()[0].values()) - read(song)).max() < 2**-21


@pytest.mark.parametrize(("level", "channels"), [(4, 1), (0.1, 9)])
def test_audio_that_a_flac_cannot_hold_becomes_a_wav(task, made, tmp_path, level, channels):
    noise = np.random.default_rng(0).uniform(-level, level, (900, channels))
    sf.write(tmp_path / "x.wav", noise, 16000, subtype="FLOAT")
    line = ["extract", tmp_path / "x.wav", "bass", GATE_OFF, "--format", "flac"]
    code, _, err = task(*line)
    assert code == 0 and "FLAC" in err
    audio, _ = made()
    assert list(audio) == ["x_bass.wav", "x_bass_residual.wav"]
    np.testing.assert_allclose(sum(audio.values()), noise, atol=1e-5)
    assert task(*line)[1].startswith("Already there")


@pytest.mark.parametrize("rate", [1000, 65_535, 65_537, 384_000, 655_350, 655_360])
def test_a_flac_holds_all_audio_without_a_problem(tmp_path, rate):
    for channels, frames in product((1, 8, 9), (1, 15, 5000)):
        audio = np.ones((channels, frames), np.float32)
        audio[:, ::2] = -1
        if flac_problem(audio, rate) is not None:
            with pytest.raises(OSError):
                write_flac(tmp_path / "x.flac", audio, rate)
            continue
        write_flac(tmp_path / "x.flac", audio, rate)
        assert abs(read(tmp_path / "x.flac").T - audio).max() < 2**-22


TRACKS = {"bass": 0.25, "drums": -0.125, "residual": 0.5}


@pytest.fixture
def extraction(tmp_path):
    """The JSON of an extraction of constant tracks."""
    folder = tmp_path / "result"
    folder.mkdir()
    files = {track: f"x_{track}.wav" for track in TRACKS}
    for track, level in TRACKS.items():
        sf.write(folder / files[track], np.full((50, 2), level), 22050, subtype="FLOAT")
    path = folder / "x_bass_drums.json"
    path.write_text(json.dumps({"task": "extract", "files": files}))
    return path


@pytest.mark.parametrize(
    ("gains", "level"),
    [
        ([], 0.625),
        (["bass=-inf"], 0.375),
        (["bass=-6", "residual=20"], 0.25 * 10**-0.3 - 0.125 + 5),
        (["bass=-inf", "drums=-inf", "residual=-inf"], 0),
    ],
)
def test_tracks_are_mixed_with_their_gains(mge, extraction, tmp_path, gains, level):
    for number, path in enumerate((extraction, extraction.parent)):
        out = tmp_path / f"mix{number}.wav"
        options = [f"--gain={gain}" for gain in gains]
        assert mge("remix", path, *options, "--out", out) == (0, f"Wrote {out}\n", "")
        audio, rate = sf.read(out, dtype="float32")
        assert (rate, audio.shape) == (22050, (50, 2))
        np.testing.assert_allclose(audio, level, atol=1e-6)


@pytest.mark.parametrize("name", ["extract", "add", "accompany", "replace", "generate"])
def test_the_result_of_every_task_is_remixed_into_its_mixture(
    mge, task, made, tmp_path, song, name
):
    options = {"extract": ["x", GATE_OFF], "add": ["x"], "replace": ["x", "--with=y", GATE_OFF]}
    songs = [] if name == "generate" else [song]
    assert task(name, *songs, *options.get(name, []))[0] == 0
    assert mge("remix", tmp_path / "out", "--out", tmp_path / "mix.wav")[0] == 0
    mixtures = [audio for path, audio in made()[0].items() if path.endswith("_mixture.wav")]
    expected = mixtures[0] if mixtures else read(song)
    np.testing.assert_allclose(read(tmp_path / "mix.wav"), expected, atol=1e-6)


def test_a_remix_that_a_flac_cannot_hold_is_a_wav(mge, extraction, tmp_path):
    out = tmp_path / "mix.flac"
    assert mge("remix", extraction, "--out", out)[:2] == (0, f"Wrote {out}\n")
    assert sf.info(out).subtype == "PCM_24"
    loud = tmp_path / "loud.flac"
    code, said, err = mge("remix", extraction, "--gain=residual=9", "--out", loud)
    assert (code, said) == (0, f"Wrote {tmp_path / 'loud.wav'}\n") and "loud.flac" in err
    assert read(tmp_path / "loud.wav").max() > 1


@pytest.mark.parametrize(
    ("content", "arguments", "named"),
    [
        ({}, ["--gain=flute=3"], "flute"),
        ({}, ["--gain=residual"], "--gain"),
        ({}, ["--gain=residual=1", "--gain=residual=2"], "--gain"),
        ({}, ["--gain=residual=loud"], "--gain"),
        ({}, ["--gain=residual=nan"], "--gain"),
        ({}, ["--gain=residual=inf"], "--gain"),
        ({}, ["--out=mix.mp3"], "mix.mp3"),
        ({}, ["--out=x_residual.wav"], "x_residual.wav"),
        ({}, ["--out=there.wav"], "there.wav"),
        ({"task": "evaluate"}, [], "evaluate"),
        ({"files": {}}, [], "files"),
        ({"files": {"a": "../x.wav"}}, [], r"\.\./x.wav"),
        ({"files": {"a": "absent.wav"}}, [], "absent.wav"),
        ({"files": {"a": "x_residual.wav", "b": "there.wav"}}, [], "length"),
    ],
)
def test_a_remix_that_cannot_be_made_is_one_sentence(
    mge, extraction, monkeypatch, content, arguments, named
):
    monkeypatch.chdir(extraction.parent)
    sf.write("there.wav", np.zeros(7), 8000)
    info = json.loads(extraction.read_text())
    extraction.write_text(json.dumps(info | content))
    code, out, err = mge("remix", extraction, "--out=mix.wav", *arguments)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert re.match(f"error: .*{named}", line), line


def test_a_folder_has_to_have_one_result(mge, extraction, tmp_path):
    (extraction.parent / "y.json").write_text("{}")
    for folder in (extraction.parent, tmp_path):
        code, _, err = mge("remix", folder, "--out", tmp_path / "mix.wav")
        assert code == 1 and str(folder) in err
