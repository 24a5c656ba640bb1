"""Results as FLAC, and as WAV where a FLAC would change them."""

import re
from itertools import product

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.data.audio import flac_problem, write_flac

PROMPT = ("--prompt", "bass", "--no-gate")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


def test_a_flac_has_24_bits_and_the_same_sum(task, made, tmp_path, write_song):
    song = write_song(tmp_path / "a.wav", 900)
    options = [*PROMPT, "--refine", "mask", "--format", "flac"]
    assert task("extract", song, *options)[0] == 0
    info = sf.info(tmp_path / "out" / "a_bass_source.flac")
    assert (info.format, info.subtype) == ("FLAC", "PCM_24")
    audio, infos = made()
    assert infos["a_bass.json"]["files"]["source"] == "a_bass_source.flac"
    mixture, _ = sf.read(song, dtype="float32", always_2d=True)
    total = audio["a_bass_source.flac"] + audio["a_bass_residual.flac"]
    assert abs(total - mixture).max() < 2**-21


@pytest.mark.parametrize(
    ("level", "channels", "problem"),
    [(4, 1, r"\w+: its peak of \+\d+\.\d dBFS would be clipped"), (0.1, 9, "it has 9 channels")],
)
def test_what_a_flac_cannot_hold_is_a_wav_and_told(task, made, tmp_path, level, channels, problem):
    noise = np.random.default_rng(0).uniform(-level, level, (900, channels))
    sf.write(tmp_path / "x.wav", noise, 16000, subtype="FLOAT")
    code, _, err = task("extract", tmp_path / "x.wav", *PROMPT, "--format", "flac")
    assert code == 0
    assert re.search(f"x.wav: written as WAV, since a FLAC cannot hold it.*: .*{problem}", err)
    audio, _ = made()
    assert list(audio) == ["x_bass_residual.wav", "x_bass_source.wav"]
    total = audio["x_bass_source.wav"] + audio["x_bass_residual.wav"]
    np.testing.assert_allclose(total, noise, atol=1e-5)
    code, out, _ = task("extract", tmp_path / "x.wav", *PROMPT, "--format", "flac")
    assert (code, out[:13]) == (0, "Already there")


@pytest.mark.parametrize("rate", [1000, 65_535, 65_537, 384_000, 655_350, 655_360])
def test_a_flac_holds_all_that_has_no_problem(tmp_path, rate):
    for channels, frames in product((1, 8, 9), (1, 15, 5000)):
        audio = np.ones((channels, frames), np.float32)
        audio[:, ::2] = -1
        if flac_problem(audio, rate) is not None:
            with pytest.raises(sf.LibsndfileError):
                write_flac(tmp_path / "x.flac", audio, rate)
            continue
        write_flac(tmp_path / "x.flac", audio, rate)
        read, _ = sf.read(tmp_path / "x.flac", dtype="float32", always_2d=True)
        assert abs(read.T - audio).max() < 2**-22
