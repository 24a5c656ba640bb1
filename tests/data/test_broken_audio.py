"""Every kind of broken audio file: the error names it and says what is wrong."""

import os
import pickle
import struct

import numpy as np
import pytest
import soundfile as sf
from numpy.testing import assert_array_equal

from mge_plugin.data.audio import AudioError, audio_info, check_level, read_audio, read_window
from mge_plugin.data.songs import Part
from tests.data.conftest import window_of

RATE = 16_000


def _patched(path, offset, content):
    """Overwrite bytes of a file, as a careless writer would have left them."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


@pytest.fixture
def wav(tmp_path, noise):
    """A canonical 16-bit WAV: data size at byte 40, samples from byte 44 on."""
    path = tmp_path / "stem.wav"
    sf.write(path, noise(4000), RATE, subtype="PCM_16")
    return path


def test_a_wav_from_a_pipe_is_read_to_its_end(wav):
    expected, _ = read_audio(wav)
    _patched(wav, 4, b"\xff" * 4)
    _patched(wav, 40, b"\xff" * 4)
    assert audio_info(wav) == (RATE, 4000)
    assert_array_equal(read_audio(wav)[0], expected)


def test_a_header_that_says_zero_samples_is_an_error_though_data_follow(wav):
    _patched(wav, 40, bytes(4))
    for read in (audio_info, read_audio, lambda path: window_of(path, 0, 10)):
        with pytest.raises(AudioError, match=r"stem\.wav: the header says 0 samples \(8044 bytes"):
            read(wav)


def test_a_wav_of_a_header_alone_is_an_error(wav):
    wav.write_bytes(wav.read_bytes()[:44])
    with pytest.raises(AudioError, match=r"the header says 0 samples \(44 bytes\)"):
        audio_info(wav)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not audio at all", "Format not recognised"),
        (bytes.fromhex("00051607") + bytes(78), "Format not recognised"),
    ],
)
def test_a_file_that_is_no_audio_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "stem.wav"
    path.write_bytes(content)
    for read in (audio_info, read_audio, lambda path: window_of(path, 0, 10)):
        with pytest.raises(AudioError, match=reason) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.path == path


def test_what_is_not_there_or_not_a_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: .*no such file"):
        read_window(Part(tmp_path / "gone.wav", RATE, 10), 0, 10)
    with pytest.raises(AudioError, match="it is a folder"):
        audio_info(tmp_path)
    (tmp_path / "take.raw").write_bytes(bytes(100))
    with pytest.raises(AudioError, match=r"take\.raw: raw samples have no header"):
        read_audio(tmp_path / "take.raw")


@pytest.mark.parametrize("rate", [1, 2_000_000])
def test_a_sample_rate_that_no_music_has_is_an_error(wav, rate):
    _patched(wav, 24, struct.pack("<I", rate))
    with pytest.raises(AudioError, match=f"the header says {rate} samples a second"):
        audio_info(wav)


@pytest.mark.parametrize("total", [0, 4007, 4000 + 2**30, 4000 + 2**35])
def test_a_flac_is_played_whatever_length_its_header_says(tmp_path, noise, total):
    """0 is what a writer to a pipe leaves; one bit more makes a song of a second last for days."""
    path = tmp_path / "stream.flac"
    sf.write(path, noise(4000), RATE)
    expected, _ = read_audio(path)
    first = path.read_bytes()[8 + 13] & 0xF0
    _patched(path, 8 + 13, bytes([first | total >> 32]) + struct.pack(">I", total % 2**32))
    assert audio_info(path) == (RATE, 4000)
    assert_array_equal(read_audio(path)[0], expected)
    assert_array_equal(window_of(path, 3000, 2000), np.pad(expected[:, 3000:], ((0, 0), (0, 1000))))


def test_a_wav_that_was_cut_after_indexing_is_an_error_not_silence(wav):
    part = Part(wav, *audio_info(wav))
    whole, _ = read_audio(wav)
    wav.write_bytes(wav.read_bytes()[:4044])
    assert_array_equal(read_window(part, 0, 2000), whole[:, :2000])
    for start in (1500, 3000):
        with pytest.raises(AudioError, match=r"stem\.wav: only"):
            read_window(part, start, 1000)


@pytest.mark.parametrize("peak", [9830.0, 1e29])
def test_a_peak_that_no_audio_has_is_an_error(tmp_path, noise, peak):
    audio = noise(1000)
    audio[500] = peak
    path = tmp_path / "stem.wav"
    sf.write(path, audio, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"stem\.wav: a peak of"):
        check_level(path)
    with pytest.raises(AudioError, match=r"stem\.wav: a peak of"):
        window_of(path, 400, 200)


def test_id3_tags_before_a_file_are_skipped(tmp_path, noise):
    for name in ("a.wav", "a.flac"):
        sf.write(tmp_path / name, noise(1000), RATE)
        tag = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)
        (tmp_path / name).write_bytes(tag + (tmp_path / name).read_bytes())
        assert audio_info(tmp_path / name) == (RATE, 1000)


def test_a_pipe_named_as_audio_is_an_error_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for read in (audio_info, read_audio):
        with pytest.raises(AudioError, match="not a regular file"):
            read(tmp_path / "pipe.wav")


def test_half_a_flac_is_read_up_to_the_cut_and_an_error_beyond(tmp_path, noise, cut_in_half):
    path = tmp_path / "half.flac"
    sf.write(path, noise(40_000), RATE)
    whole, _ = read_audio(path)
    cut_in_half(path)
    assert audio_info(path) == (RATE, 40_000)  # the header does not know
    assert_array_equal(window_of(path, 2000, 5000), whole[:, 2000:7000])
    for start in (15_000, 30_000):
        with pytest.raises(AudioError, match=r"half\.flac: ") as caught:
            window_of(path, start, 9000)
        assert caught.value.path == path
    with pytest.raises(AudioError, match=r"half\.flac: "):
        read_audio(path)


def test_a_cut_mp3_is_read_as_far_as_it_goes(tmp_path, noise, cut_in_half):
    path = tmp_path / "half.mp3"
    sf.write(path, noise(4 * RATE), RATE)
    cut_in_half(path)
    audio, rate = read_audio(path)
    assert rate == RATE and 0.4 * 4 * RATE < audio.shape[1] < 0.6 * 4 * RATE
    assert audio_info(path) == (RATE, audio.shape[1])
    assert not window_of(path, 50_000, 100).any()  # its index has the length that can be read


def test_a_reader_that_gives_nothing_is_an_error(wav, monkeypatch):
    monkeypatch.setattr(sf.SoundFile, "read", lambda *_, **__: np.zeros((0, 1), np.float32))
    with pytest.raises(AudioError, match=r"stem\.wav: only 0 of 100 samples read"):
        window_of(wav, 50, 100)
    with pytest.raises(AudioError, match=r"stem\.wav: no samples can be read"):
        read_audio(wav)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_window_with_a_sample_that_is_no_number_is_an_error(tmp_path, noise, value):
    audio = noise(1000, channels=2)
    audio[500, 1] = value
    path = tmp_path / "stem.wav"
    sf.write(path, audio, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"stem\.wav: 1 samples are NaN or infinite"):
        window_of(path, 400, 200)
    with pytest.raises(AudioError, match="NaN or infinite"):
        read_audio(path)
    assert_array_equal(window_of(path, 0, 500), audio[:500].T)


def test_an_audio_error_is_one_in_another_process_too(tmp_path):
    error = AudioError("is broken", tmp_path / "a.wav")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path) == (str(error), error.path)
    assert str(AudioError(str(error))) == str(error)  # as a DataLoader rebuilds it
