"""Songs that break while training: other windows stand in, the count is kept, it is said once."""

import logging

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.data.audio import AudioError

RATE = 16_000
SAMPLES = 1000
SONGS = 4


def _break_by_deleting(song):
    (song / "stems" / "S01.flac").unlink()


def _break_by_emptying(song):
    (song / "stems" / "S01.flac").write_bytes(b"")


def _break_by_writing_text(song):
    (song / "stems" / "S01.flac").write_text("not audio")


def _break_by_a_sample_that_is_no_number(song):
    audio = np.full(4 * SAMPLES, np.nan, dtype=np.float32)
    sf.write(song / "stems" / "S01.flac", audio, RATE, format="WAV", subtype="FLOAT")


BREAKS = [
    _break_by_deleting,
    _break_by_emptying,
    _break_by_writing_text,
    _break_by_a_sample_that_is_no_number,
]


@pytest.mark.parametrize("break_song", BREAKS)
def test_windows_of_other_songs_stand_in_for_a_song_that_broke_while_training(
    corpus, caplog, break_song, digests, song_names
):
    loader, again = corpus.loader(), corpus.loader()
    whole = digests(loader)
    loader.seek(0)
    songs = song_names(loader)
    assert songs.count("Track00001") == 4
    break_song(corpus.root / "train" / "Track00001")
    loader.seek(0)
    without = digests(loader)
    assert len(without) == len(whole) == 16
    loader.seek(0)
    assert "Track00001" not in song_names(loader)
    kept = [song != "Track00001" for song in songs]
    assert [a == b for a, b in zip(without, whole, strict=True)] == kept
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    path = corpus.root / "train" / "Track00001" / "stems" / "S01.flac"
    assert f"not used, another song replaces it: {path}: " in record.message
    assert digests(again) == without


def test_a_broken_song_of_many_windows_does_not_end_the_training(corpus, slakh, noise, song_names):
    folder = slakh.song("Track_long", [slakh.stem(noise(100 * SAMPLES))] * 2)
    loader = slakh.loader(shuffle=False)
    (folder / "stems" / "S00.wav").unlink()
    songs = song_names(loader)
    assert len(songs) == 116 and "Track_long" not in songs
    assert len(set(songs)) == SONGS


def test_half_a_flac_serves_the_windows_before_the_cut(corpus, slakh, noise, cut_in_half, caplog):
    stems = [slakh.stem(noise(64 * SAMPLES, i), i, RATE, ".flac") for i in range(2)]
    path = slakh.song("Track_half", stems) / "stems" / "S00.flac"
    cut_in_half(path)
    loader = slakh.loader(batch_size=1)
    items = [item for _, (item,) in loader]
    starts = [i["seconds_start"] * RATE for i in items if i["path"].endswith("Track_half")]
    assert len(items) == 16 + 64 and 10 < len(starts) < 50
    assert max(starts) < 33 * SAMPLES
    assert len(caplog.records) == 1 and str(path) in caplog.text


def test_nothing_readable_is_an_error_that_names_a_file_and_no_endless_loop(corpus):
    loader = corpus.loader()
    for path in corpus.root.glob("train/*/stems/*"):
        path.unlink()
    with pytest.raises(AudioError, match=r"20 songs in a row cannot be read, e\.g\. .*S0\d\.fl"):
        next(iter(loader))
