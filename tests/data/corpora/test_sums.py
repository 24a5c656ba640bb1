"""Stems that do not sum to their mixture are told, channel by channel."""

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.config import parse_section
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.corpora.verify import _WRONG, _check_sums

RATE = 16_000
STEMS = ("drums", "bass", "other", "vocals")


@pytest.fixture
def check():
    def run(kind, path, **keys):
        entry = {"id": "c", "type": kind, "path": str(path)} | keys
        return _check_sums(parse_section(CorpusConfig, entry, "d"), None).odd

    return run


@pytest.fixture
def song(tmp_path, noise):
    """Write a song of MUSDB18-HQ whose mixture has something more on the left."""

    def write(name, left=0.0, mixture=True):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        stems = [noise(RATE, number, 2) for number in range(4)]
        for stem, audio in zip(STEMS, stems, strict=True):
            sf.write(folder / f"{stem}.wav", audio, RATE, "PCM_16")
        more = left * np.sin(np.arange(RATE))
        total = sum(stems) + np.stack([more, 0 * more], axis=1)
        if mixture:
            sf.write(folder / "mixture.wav", total, RATE, "FLOAT")
        return folder

    return write


def test_only_the_channel_that_differs_is_named(song, check, tmp_path):
    song("fine")
    folder = song("wrong", left=0.1)
    (wrong,) = check("musdb18_hq", tmp_path)[_WRONG]
    assert wrong == f"{folder} (channel 1: -10 dB)"  # 0.1 / sqrt(2) beside 0.21


def test_the_sum_is_of_all_stems_whatever_the_config_keeps(song, check, tmp_path):
    song("fine")
    assert check("musdb18_hq", tmp_path, labels=["bass", "drums"], exclude=["fine/bass"]) == {}


def test_a_song_without_a_mixture_and_a_type_without_are_told(song, check, tmp_path):
    folder = song("a", mixture=False)
    expected = {"song without a mixture to compare with": [str(folder)]}
    assert check("musdb18_hq", tmp_path) == expected
    assert list(check("folder", tmp_path)) == ["no mixtures to compare sums with in type 'folder'"]


def test_a_silent_song_sums_to_its_silent_mixture(check, tmp_path):
    folder = tmp_path / "train" / "silent"
    folder.mkdir(parents=True)
    for name in (*STEMS, "mixture"):
        sf.write(folder / f"{name}.wav", np.zeros((RATE, 2)), RATE)
    assert check("musdb18_hq", tmp_path) == {}


def test_slakhs_mixture_is_the_sum_at_one_rate(check, slakh, two, noise):
    good, other = slakh.song("T1", two), slakh.song("T2", two)
    total = two[0].audio + two[1].audio
    sf.write(good / "mix.flac", total, RATE)
    sf.write(other / "mix.wav", total, 8000)
    assert list(check("slakh", slakh.root)) == ["song that could not be compared with its mixture"]


def test_a_broken_stem_is_told(song, check, tmp_path):
    (song("a") / "bass.wav").write_bytes(b"")
    assert list(check("musdb18_hq", tmp_path)) == [_WRONG]


def test_the_streams_of_a_container_are_compared_with_the_first(check, write_mp4, tmp_path):
    path = tmp_path / "train" / "a.stem.mp4"
    write_mp4(path, samples=8000)  # five sines: the first is no sum of the others
    (wrong,) = check("musdb18", tmp_path)[_WRONG]
    assert wrong.startswith(f"{path} (channel 1: ") and "channel 2: " in wrong
