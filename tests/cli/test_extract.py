import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.files import checkpoint_fingerprint, file_stem

RATE, WINDOW, HOP = 16000, 2048, 1536  # of the tiny model, in Hz and samples
PROMPT = "the sound of the bass"
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def extract(mge, tiny, tmp_path):
    """Extract from a song into a folder, and read what was written: audio by name."""

    def run(song, *options, prompt=PROMPT, out="out"):
        out = tmp_path / out
        arguments = ["--prompt", prompt, "--out", out, "--steps", 2, "--device", "cpu"]
        arguments += ["--no-gate", *options]  # to whom random weights' sounds are not there
        code, _, err = mge("extract", song, *tiny, *arguments)
        assert code == 0, err
        files = {path.stem.rpartition("_")[2]: path for path in out.glob("*.wav")}
        return {name: sf.read(path, dtype="float32")[0] for name, path in files.items()}

    return run


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
    extract, tmp_path, rate, channels, frames, write_song
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
def test_any_common_audio_file_will_do(extract, tmp_path, suffix, write_song):
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
    assert [track["rms_db"] for track in info["tracks"].values()] == [None, None]
    assert [track["peak_db"] for track in info["tracks"].values()] == [None, None]


def test_where_the_song_is_silent_so_is_the_source(extract, tmp_path):
    mixture = np.zeros(3 * WINDOW)
    mixture[HOP + WINDOW :] = 0.1  # after the second window
    sf.write(tmp_path / "song.wav", mixture, RATE, subtype="FLOAT")
    source = extract(tmp_path / "song.wav")["source"]
    assert not source[: HOP + WINDOW].any()
    assert source[HOP + WINDOW :].all()


def test_the_same_seed_gives_the_same_samples_and_another_seed_or_prompt_others(
    extract, tmp_path, write_song
):
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


def test_guidance_changes_the_result(extract, tmp_path, write_song):
    song = write_song(tmp_path / "song.wav", 900)
    plain, guided = (extract(song, "--cfg-scale", s, out=s)["source"] for s in ("1", "3"))
    assert abs(plain - guided).max() > 1e-3


def test_a_json_file_says_how_it_was_made(extract, tiny, tmp_path, write_song):
    song = write_song(tmp_path / "song.wav", 900)
    extract(song, "--seed", 5, "--cfg-scale", 1.5)
    info = json.loads((tmp_path / "out" / "song_the_sound_of_the_bass.json").read_text())
    assert info["tracks"].keys() == {"source", "residual"}
    assert info["tracks"]["source"]["prompt"] == PROMPT
    origin = {"song": str(song), "model_config": tiny[1], "ckpt": tiny[3], "task": "extract"}
    assert origin.items() <= info.items()
    asked = {"steps": 2, "cfg_scale": 1.5, "seed": 5, "refine": "auto", "gate": False}
    assert asked.items() <= info["sampling"].items()
    assert info["files"] == {n: f"song_the_sound_of_the_bass_{n}.wav" for n in info["tracks"]}
    request = info["request"]
    assert (request["task"], request["prompts"]) == ("extract", [PROMPT])
    assert request["ckpt"] == checkpoint_fingerprint(Path(tiny[3]))


def test_names_in_any_script_and_of_any_length_make_file_names(extract, tmp_path, write_song):
    song = write_song(tmp_path / f"{'歌' * 70}.wav", 900)
    audio = extract(song, prompt="コントラバスの音" * 20)
    assert audio.keys() == {"source", "residual"}


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b: c?", "a_b_c"), ("../..", "untitled"), ("", "untitled"), ("é" * 99, "é" * 50)],
)
def test_a_file_stem_is_safe_on_any_file_system(text, name):
    assert file_stem(text) == name


def test_nothing_but_the_result_is_written(mge, tiny, tmp_path, recwarn, write_song):
    song = write_song(tmp_path / "song.wav", 900)
    options = ["--prompt=bass", "--no-gate", "--out", tmp_path, "--steps", 1, "--device", "cpu"]
    code, out, err = mge("extract", song, *tiny, *options)
    names = ("song_bass_source.wav", "song_bass_residual.wav")
    assert (code, out) == (0, "".join(f"Wrote {tmp_path / name}\n" for name in names))
    assert err.lstrip().startswith("sampling")
    assert not recwarn.list
    assert {p.name for p in tmp_path.iterdir()} == {"song.wav", "song_bass.json", *names}
