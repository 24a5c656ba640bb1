import math

import numpy as np
import pytest

from mge_plugin.report.page import _is_number, format_db, format_length
from mge_plugin.report.pictures import measure_levels


def test_a_half_scale_sine_has_a_peak_of_6_and_an_rms_of_9_below_full_scale():
    levels = measure_levels(0.5 * np.sin(2 * np.pi * np.arange(16000) * 1000 / 16000))
    assert levels.peak_db == pytest.approx(-6.02, abs=0.005)
    assert levels.rms_db == pytest.approx(-9.03, abs=0.005)


def test_the_peak_is_of_any_channel_and_the_rms_of_all():
    levels = measure_levels(np.array([[0.0, 0.0], [-1.0, 1.0]], np.float32))
    assert levels.peak_db == 0
    assert levels.rms_db == pytest.approx(-3.01, abs=0.005)


def test_silence_has_no_level():
    levels = measure_levels(np.zeros((2, 10), np.float32))
    assert levels.peak_db == levels.rms_db == -math.inf


@pytest.mark.parametrize(
    ("level", "text"),
    [(-6.02, "−6.0 dBFS"), (3.52, "+3.5 dBFS"), (-0.01, "0.0 dBFS"), (-math.inf, "silent")],
)
def test_levels_are_readable(level, text):
    assert format_db(level) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(83.44, "1:23.4"), (59.97, "1:00.0"), (9.5, "9.5 s"), (0.02, "20 ms"), (6.25e-5, "62.5 µs")],
)
def test_lengths_are_readable(seconds, text):
    assert format_length(seconds) == text


@pytest.mark.parametrize("cell", ["3", "−3.1", "12 %", "0.5 ± 0.1", "1e-4"])
def test_a_number_is_known(cell):
    assert _is_number(cell)


@pytest.mark.parametrize("cell", ["", "drums", "3 of 4", "%"])
def test_a_text_is_known(cell):
    assert not _is_number(cell)
