import io

import librosa
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from mge_plugin.report.pictures import _N_MELS, _mel_spectrogram, _plot_box, spectrogram_png


def sine(frequency, sample_rate=16000, seconds=0.5):
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate)


def picture(*args, **kwargs):
    return Image.open(io.BytesIO(spectrogram_png(*args, **kwargs))).convert("RGB")


def plot(image):
    """Pixels (height, width, colour) inside of the axes, without the feet of the ticks."""
    left, bottom, width, height = _plot_box(*image.size)
    across, up = image.size
    rows = slice(round((1 - bottom - height) * up), round((1 - bottom) * up))
    columns = slice(round(left * across), round((left + width) * across))
    return np.asarray(image)[rows, columns][2:-2, 2:-2]


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_a_full_scale_sine_is_near_0_db_in_its_band_and_nowhere_else(sample_rate):
    mel = _mel_spectrogram(sine(1000, sample_rate), sample_rate)
    centres = librosa.mel_frequencies(_N_MELS + 2, fmin=0, fmax=sample_rate / 2)[1:-1]
    steady = mel[:, mel.shape[1] // 2]
    assert mel.shape[0] == _N_MELS
    assert -3.1 < steady.max() < 0.1
    assert centres[steady.argmax()] == pytest.approx(1000, rel=0.04)
    assert steady[abs(centres - 1000) > 200].max() < -50


def test_half_the_amplitude_is_6_db_less():
    loud, quiet = (_mel_spectrogram(scale * sine(1000), 16000).max() for scale in (1, 0.5))
    assert loud - quiet == pytest.approx(6.02, abs=0.01)


def test_opposite_phases_do_not_cancel():
    mono = _mel_spectrogram(sine(1000), 16000)
    np.testing.assert_allclose(_mel_spectrogram([sine(1000), -sine(1000)], 16000), mono, atol=1e-3)


def test_silence_lies_on_the_floor():
    assert np.all(_mel_spectrogram(np.zeros(8000), 16000, floor_db=-90) == -90)


def test_silence_is_dark():
    assert plot(picture(np.zeros((1, 8000)), 16000)).max() < 8


def test_colours_are_not_normalised():
    loud, quiet = (plot(picture(scale * sine(1000), 16000)).max() for scale in (0.3, 0.003))
    assert loud > quiet > 0


def test_high_notes_are_above_low_notes():
    rows = [plot(picture(sine(hz), 16000)).sum(axis=(1, 2)).argmax() for hz in (4000, 500)]
    assert rows[0] < rows[1]


def test_the_plot_spans_the_clip_from_edge_to_edge():
    audio = np.concatenate([np.zeros(8000), sine(1000)])
    columns = plot(picture(audio, 16000)).sum(axis=(0, 2))
    start = np.flatnonzero(columns > columns.max() / 2)[0]
    assert start / len(columns) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("size", [(840, 340), (400, 201)])
def test_a_picture_has_the_size_that_was_asked(size):
    assert picture(sine(1000), 16000, width=size[0], height=size[1]).size == size


@pytest.mark.parametrize("samples", [1, 2, 1000, 16000 * 70])
def test_any_length_is_drawn(samples):
    assert picture(np.full(samples, 0.1), 16000).size == (840, 340)


def test_a_picture_without_room_for_the_plot_raises():
    with pytest.raises(ValueError, match="a picture of 50 x 340 pixels has no room"):
        spectrogram_png(np.zeros(10), 16000, width=50)


def test_values_that_are_not_finite_raise():
    audio = np.zeros((2, 10))
    audio[1, 7] = np.nan
    with pytest.raises(ValueError, match=r"1 of 20 values are not finite.*channel 1, sample 7"):
        spectrogram_png(audio, 16000)


def test_audio_of_a_model_that_exploded_is_drawn():
    assert plot(picture(1e30 * sine(1000), 16000)).max() > 200


def test_pyplot_is_left_alone():
    spectrogram_png(sine(1000), 16000)
    assert pyplot.get_fignums() == []
