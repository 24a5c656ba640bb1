"""Audio streams of MP4 files: windows are slices of the whole, and what is wrong is said."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mge_plugin.data.audio import (
    _PRE_ROLL,
    AudioError,
    audio_info,
    read_audio,
    stream_infos,
)
from tests.data.conftest import window_of

RATE = 44_100
SAMPLES = 60_000


@pytest.fixture(scope="module")
def stems(tmp_path_factory, write_mp4):
    """A file of five streams, and what was written to it."""
    path = tmp_path_factory.mktemp("mp4") / "Artist [Live] - é.stem.mp4"
    return path, write_mp4(path, samples=SAMPLES, cover=True)


def test_cover_art_is_no_stream_and_lengths_are_those_written(stems):
    path, _ = stems
    infos = stream_infos(path)
    assert len(infos) == 5 and {rate for rate, _ in infos} == {RATE}
    assert all(abs(frames - SAMPLES) < 60 for _, frames in infos)  # the container counts ms
    assert audio_info(path, 3) == infos[3]


@pytest.mark.parametrize("stream", [0, 4])
def test_a_stream_decodes_to_its_own_samples_without_the_encoders_delay(stems, stream):
    path, written = stems
    audio, rate = read_audio(path, stream)
    assert rate == RATE and audio.dtype == np.float32
    inner = slice(2000, 50_000)
    assert_allclose(audio[:, inner], written[stream][:, inner], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "start", [-100, 0, 1, 1023, _PRE_ROLL, _PRE_ROLL + 1, 20_000, 33_333, SAMPLES - 500, SAMPLES]
)
def test_a_window_is_a_slice_of_the_whole_stream(stems, start):
    path, _ = stems
    whole = np.pad(read_audio(path, 2)[0], ((0, 0), (100, 5000)))
    window = window_of(path, start, 4000, 2)
    assert_allclose(window, whole[:, 100 + start : 4100 + start], atol=2e-5, rtol=0)
    assert window.any() == (start < SAMPLES)


def test_a_window_beyond_the_end_is_silent(stems):
    assert_array_equal(window_of(stems[0], 10 * SAMPLES, 10), np.zeros((2, 10)))


def test_a_stream_that_is_not_there_is_named(stems):
    with pytest.raises(AudioError, match=r"\.stem\.mp4: has 5 audio streams, no number 5"):
        window_of(stems[0], 0, 10, 5)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_that_is_no_container_is_named(tmp_path, content):
    path = tmp_path / "a.m4a"
    if content is not None:
        path.write_bytes(content)
    for read in (audio_info, read_audio, lambda path: window_of(path, 0, 10)):
        with pytest.raises(AudioError, match=r"a\.m4a: not readable as audio \(.+\)"):
            read(path)


def test_half_a_container_is_an_error(tmp_path, write_mp4, cut_in_half):
    write_mp4(tmp_path / "a.mp4", 1)
    with pytest.raises(AudioError, match=r"a\.mp4: not readable as audio"):
        read_audio(cut_in_half(tmp_path / "a.mp4"))


def test_without_pyav_the_remedy_is_told(stems, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"PyAV is needed to decode it: pip install 'mge-plugin\["):
        audio_info(stems[0])


def test_lossless_streams_of_whole_numbers_become_float32(tmp_path, noise):
    av = pytest.importorskip("av")
    path = tmp_path / "a.m4a"
    audio = noise(20_000, channels=2).T
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("alac", rate=RATE, layout="stereo")
        for start in range(0, 20_000, 4000):
            block = np.round(audio[:, start : start + 4000] * 2**15).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block.copy(), format="s16p", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert_allclose(window_of(path, 9000, 5000), audio[:, 9000:14_000], atol=2**-15, rtol=0)
