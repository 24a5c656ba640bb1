"""What the page writes: where, under which names, in which formats."""

import gradio as gr
import numpy as np
import pytest

from mge_plugin.interface import files
from tests.interface.conftest import as_numpy

BASS = "The sound of the bass"


@pytest.mark.parametrize("naming", ["verbose", "prompt", "output.wav"])
def test_files_stay_in_gradios_folder(generate, naming, gradio_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate('../../x"; touch pwned; $(touch pwned) / a', file_naming=naming, file_format="flac")
    assert generate.path.is_relative_to(gradio_folder)
    assert generate.path.suffix in (".flac", ".wav")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", files.formats())
def test_every_file_format_that_is_offered(generate, form, song):
    audio, rate, _ = generate(BASS, inpaint_audio=as_numpy(*song), file_format=form)
    assert generate.path.suffix == f".{form.split()[0]}"
    assert rate == 44100
    assert abs(audio.shape[1] - song[0].shape[1]) <= 4608  # MP3 pads


def test_mp3_rates_are_as_they_say(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 441000)).astype(np.float32)
    for form, kbit in (("mp3 320k", 320), ("mp3 128k", 128)):
        if form in files.formats():
            size = files.write(tmp_path, form, noise, 44100, form).stat().st_size
            assert size * 8 / 10_000 == pytest.approx(kbit, rel=0.02)


def test_what_a_format_would_clip_is_a_wav(generate, monkeypatch):
    warned = []
    monkeypatch.setattr(gr, "Warning", warned.append)
    monkeypatch.setattr(
        files, "format_problem", lambda *_: "its peak of +3.0 dBFS would be clipped"
    )
    generate("a song", file_format="flac")
    assert generate.path.suffix == ".wav"
    assert warned == ["This is a WAV file: no flac, for its peak of +3.0 dBFS would be clipped."]
