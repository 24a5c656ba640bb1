"""The tracks of an extraction, summed with gains."""

import json
import re

import numpy as np
import pytest
import soundfile as sf

TRACKS = {"source_1": 0.25, "source_2": -0.125, "residual": 0.5}


pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def extraction(tmp_path):
    """The JSON of an extraction of constant tracks, and the tracks."""
    folder = tmp_path / "out"
    folder.mkdir()
    files = {track: f"x_bass_drums_{track}.wav" for track in TRACKS}
    for track, level in TRACKS.items():
        sf.write(folder / files[track], np.full((50, 2), level), 22050, subtype="FLOAT")
    path = folder / "x_bass_drums.json"
    path.write_text(json.dumps({"task": "extract", "files": files}))
    return path


@pytest.mark.parametrize(
    ("gains", "level"),
    [
        ([], 0.625),
        (["source_1=-inf"], 0.375),
        (["source_1=-6", "residual=20"], 0.25 * 10**-0.3 - 0.125 + 5),
        (["source_1=-inf", "source_2=-inf", "residual=-inf"], 0),
    ],
)
@pytest.mark.parametrize("of_folder", [True, False])
def test_tracks_are_summed_with_their_gains(mge, extraction, tmp_path, gains, level, of_folder):
    out = tmp_path / "mix.wav"
    path = extraction.parent if of_folder else extraction
    code, said, err = mge("remix", path, *(f"--gain={gain}" for gain in gains), "--out", out)
    assert (code, said, err) == (0, f"Wrote {out}\n", "")
    audio, rate = sf.read(out, dtype="float32")
    assert (rate, audio.shape) == (22050, (50, 2))
    np.testing.assert_allclose(audio, level, atol=1e-6)


def test_an_extraction_of_the_command_line_is_remixed_into_its_song(
    mge, task, tmp_path, write_song
):
    song = write_song(tmp_path / "song.wav", 900)
    assert task("extract", song, "--prompt=bass", "--no-gate")[0] == 0
    assert mge("remix", tmp_path / "out", "--out", tmp_path / "mix.wav")[0] == 0
    expected, _ = sf.read(song, dtype="float32")
    np.testing.assert_allclose(sf.read(tmp_path / "mix.wav")[0], expected, atol=1e-6)


def test_a_flac_that_would_be_clipped_is_a_wav(mge, extraction, tmp_path):
    out = tmp_path / "mix.flac"
    assert mge("remix", extraction, "--out", out)[:2] == (0, f"Wrote {out}\n")
    assert sf.info(out).subtype == "PCM_24"
    loud = tmp_path / "loud.flac"
    code, said, err = mge("remix", extraction, "--gain=residual=9", "--out", loud)
    assert (code, said) == (0, f"Wrote {tmp_path / 'loud.wav'}\n")
    assert "loud.flac: written as WAV, since a FLAC cannot hold it as it is: its peak" in err
    assert sf.read(tmp_path / "loud.wav")[0].max() > 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ({}, ["--gain=bass=3"], "--gain: expected tracks of .*, residual, found 'bass'"),
        ({}, ["--gain=residual"], "--gain: expected TRACK=DB, found 'residual'"),
        ({}, ["--gain=residual=1", "--gain=residual=2"], "--gain: expected 'residual' once"),
        ({}, ["--gain=residual=loud"], "--gain: expected a number of dB or -inf, found"),
        ({}, ["--gain=residual=nan"], "--gain: expected a number of dB or -inf, found"),
        ({}, ["--gain=residual=inf"], "--gain: expected a number of dB or -inf, found"),
        ({}, ["--out=mix.mp3"], "--out: expected a name ending in .wav or .flac, found 'mix.mp3'"),
        ({}, ["--out=x_bass_drums_residual.wav"], "--out: .* is a track of the extraction"),
        ({}, ["--out=there.wav"], "--out: there.wav exists, use --overwrite or another name"),
        ({"task": "add"}, [], "expected the JSON of an extraction, found 'add'"),
        ({"files": {}}, [], "expected files by track, found {}"),
        ({"files": {"a": "../x.wav"}}, [], "expected names of files beside it, found '../x.wav'"),
        ({"files": {"a": "absent.wav"}}, [], "absent.wav: not readable as audio .no such file"),
        (
            {"files": {"a": "x_bass_drums_residual.wav", "b": "there.wav"}},
            [],
            "expected tracks of one length, rate and channels, found",
        ),
    ],
)
def test_what_cannot_be_remixed_is_told(mge, extraction, monkeypatch, content, arguments, message):
    monkeypatch.chdir(extraction.parent)
    sf.write("there.wav", np.zeros(7), 8000)
    info = json.loads(extraction.read_text())
    extraction.write_text(json.dumps(info | content))
    code, out, err = mge("remix", extraction, "--out=mix.wav", *arguments)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert re.match(f"error: .*{message}", line), line


def test_a_folder_has_to_hold_one_extraction(mge, extraction, tmp_path):
    (extraction.parent / "y.json").write_text("{}")
    code, _, err = mge("remix", extraction.parent, "--out", tmp_path / "mix.wav")
    assert (code, err.strip()[-49:]) == (1, "of an extraction, found x_bass_drums.json, y.json")
    code, _, err = mge("remix", tmp_path, "--out", tmp_path / "mix.wav")
    assert "expected one JSON of an extraction, found none" in err
