"""Stems kept decoded: the same triplets, whole files only, whoever builds and whatever kills it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mge_plugin.data import cache as cache_module
from mge_plugin.data.audio import AudioError, read_window
from mge_plugin.data.cache import StemCache
from mge_plugin.data.songs import Part
from mge_plugin.data.triplets import Format, Window, make_triplet

RATE = 16_000
BUILD = """
import sys
from pathlib import Path
from mge_plugin.data.cache import StemCache
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.corpora.index import read_corpus

if __name__ == "__main__":
    songs = read_corpus(CorpusConfig("slakh", sys.argv[1])).songs
    StemCache(Path(sys.argv[2]), 16000, 1).build(songs, workers=1)
"""


def items(corpus, **keys):
    loader = corpus.loader(**keys)
    return [real for reals, _ in loader for real in reals]


@pytest.fixture
def started(tmp_path):
    """Starts a build in a process of its own."""
    script = tmp_path / "build.py"
    script.write_text(BUILD)

    def start(corpus, folder):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(script), str(corpus.root), str(folder)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    return start


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("channels", [1, 2])
def test_triplets_are_the_same_to_16_bits(corpus, tmp_path, channels):
    plain = items(corpus, channels=channels)
    kept = items(corpus, channels=channels, cache_dir=str(tmp_path / "cache"), cache_workers=1)
    for a, b in zip(plain, kept, strict=True):
        assert_allclose(a, b, atol=3e-5, rtol=0)
        mixture, submixture, source = b.unflatten(0, (3, -1))
        assert (mixture == submixture + source).all()
    assert len(files(tmp_path / "cache")) == 4 * 3


def test_a_stem_of_another_rate_and_several_parts_is_kept_as_it_is_read(slakh, noise, tmp_path):
    song = slakh.song(stems=[slakh.stem(noise(44_100), 0, 44_100), slakh.stem(noise(9_000, 1))])
    (song,) = slakh.read()[0]
    cache = StemCache(tmp_path / "cache", RATE, 1)
    (kept,) = cache.build([song], workers=1)
    whole = read_window(kept.stems[0].cached, 0, RATE)
    assert whole.shape == (1, RATE)
    assert kept.samples(RATE) == song.samples(RATE)
    beyond = read_window(kept.stems[0].cached, RATE - 10, 30)
    assert_allclose(beyond[:, :10], whole[:, -10:])
    assert not beyond[:, 10:].any()
    assert not read_window(kept.stems[0].cached, -50, 40).any()


def test_a_loud_stem_does_not_clip(slakh, noise, tmp_path):
    slakh.song(stems=[slakh.stem(30 * noise(4000)), slakh.stem(noise(4000, 1))])
    (song,) = slakh.read()[0]
    (kept,) = StemCache(tmp_path / "cache", RATE, 1).build([song], workers=1)
    stem = kept.stems[0]
    assert_allclose(
        read_window(stem.cached, 0, 4000), read_window(stem.parts[0], 0, 4000), atol=2e-4
    )


def test_nothing_is_decoded_twice_and_a_changed_file_is_decoded_again(corpus, tmp_path, noise):
    cache, songs = StemCache(tmp_path / "cache", RATE, 1), corpus.read()[0]
    cache.build(songs, workers=1)
    before = {path: path.stat().st_mtime_ns for path in files(cache.folder)}
    cache.build(songs, workers=1)
    assert {path: path.stat().st_mtime_ns for path in files(cache.folder)} == before
    stem = songs[0].stems[0]
    corpus.stem(noise(4000, 77), ending=".flac").write(stem.path)
    os.utime(stem.path, ns=(1, 1))
    (kept, *_) = cache.build(corpus.read()[0], workers=1)
    assert len(files(cache.folder)) == len(before) + 1
    assert_allclose(read_window(kept.stems[0].cached, 0, 4000), noise(4000, 77)[None], atol=1e-4)


def test_a_file_of_another_time_is_another_file_though_its_size_is_the_same(corpus, tmp_path):
    cache, stem = StemCache(tmp_path, RATE, 1), corpus.read()[0][0].stems[0]
    before = cache.path(stem)
    assert cache.path(stem) == before
    os.utime(stem.path, ns=(1, 1))
    assert cache.path(stem) != before


def test_another_format_has_files_of_its_own(corpus, tmp_path):
    songs = corpus.read()[0]
    for rate, channels in ((RATE, 1), (RATE, 2), (8000, 1)):
        StemCache(tmp_path / "cache", rate, channels).build(songs, workers=1)
    assert len(files(tmp_path / "cache")) == 3 * 12


def test_a_stem_that_cannot_be_decoded_stays_as_it_is_and_is_told(corpus, tmp_path, caplog):
    songs = corpus.read()[0]
    broken = songs[0].stems[0]
    broken.path.write_bytes(b"nothing")
    cache = StemCache(tmp_path / "cache", RATE, 1)
    kept = cache.build(songs, workers=1)
    assert kept[0].stems[0].cached is None
    assert all(stem.cached for stem in kept[0].stems[1:])
    assert f"not decoded: {broken.path}: not readable as audio" in caplog.text


def test_two_jobs_build_one_cache(corpus, tmp_path, started):
    jobs = [started(corpus, tmp_path / "cache") for _ in range(2)]
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert len(files(tmp_path / "cache")) == 12
    alone = tmp_path / "alone"
    StemCache(alone, RATE, 1).build(corpus.read()[0], workers=1)
    contents = [[path.read_bytes() for path in files(f)] for f in (alone, tmp_path / "cache")]
    assert contents[0] == contents[1]


def test_a_killed_build_is_finished_by_the_next(corpus, tmp_path, started):
    folder = tmp_path / "cache"
    job = started(corpus, folder)
    while job.poll() is None and not list(folder.rglob("*.safetensors")):
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert started(corpus, folder).wait(60) == 0
    whole = [path for path in files(folder) if not path.name.startswith(".")]
    assert len(whole) == 12
    for path in whole:
        assert read_window(Part(path, RATE, 4000), 0, 4000).any()


def test_what_a_killed_run_left_half_written_is_removed(corpus, tmp_path):
    folder = tmp_path / "cache"
    left = folder / "ab" / ".left.tmp"
    recent = folder / "ab" / ".recent.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    recent.write_bytes(b"another job's")
    os.utime(left, (0, 0))
    StemCache(folder, RATE, 1).build(corpus.read()[0], workers=1)
    assert not left.exists()
    assert recent.exists()


def test_a_file_that_another_job_has_made_is_not_made_again(corpus, tmp_path, monkeypatch):
    cache, stem = StemCache(tmp_path, RATE, 1), corpus.read()[0][0].stems[0]
    made = cache.decoded(stem)
    assert made.cached is not None
    monkeypatch.setattr(cache_module, "write_cached", lambda *_: pytest.fail("decoded again"))
    assert cache.decoded(stem) == made


@pytest.mark.parametrize("left", [b"", b"half", None])
def test_a_file_that_a_crash_cut_off_is_made_again(corpus, tmp_path, left):
    cache, songs = StemCache(tmp_path / "cache", RATE, 1), corpus.read()[0]
    kept = cache.build(songs, workers=1)
    path = kept[0].stems[0].cached.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if left is None else left)
    assert cache.build(songs, workers=1) == kept
    assert path.read_bytes() == whole


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_a_stem_is_kept_as_its_windows_are_read(slakh, noise, tmp_path, monkeypatch, rate):
    """Decoded in blocks, at another rate, with a part of a third."""
    slakh.song(stems=[slakh.stem(noise(rate, 0), 0, rate), slakh.stem(noise(9_000, 1), 33)])
    song = slakh.read()[0][0]
    both = replace(song.stems[0], parts=(*song.stems[0].parts, *song.stems[1].parts))
    cache = StemCache(tmp_path / "cache", RATE, 1)
    monkeypatch.setattr(cache_module, "_BLOCK", 3000)
    kept = cache.decoded(both)
    form = Format(RATE, 4000, 1)
    for start in (0, 2500, 11_000):
        plain = make_triplet(Window(replace(song, stems=(both,)), (), start), form).audio[0]
        again = make_triplet(Window(replace(song, stems=(kept,)), (), start), form).audio[0]
        assert plain.any()
        assert_allclose(again, plain, atol=2e-5, rtol=0)


def test_what_cannot_be_written_is_an_error_that_names_the_folder(corpus, tmp_path):
    folder = tmp_path / "cache"
    folder.write_text("a file")
    with pytest.raises(OSError, match=rf"cache_dir {folder}: .*S0\d\.flac not kept: "):
        StemCache(folder, RATE, 1).build(corpus.read()[0], workers=1)


def test_an_interrupted_build_does_not_go_on_with_the_rest(corpus, tmp_path, monkeypatch):
    begun = []

    def stop(*_):
        begun.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "write_cached", stop)
    with pytest.raises(KeyboardInterrupt):
        StemCache(tmp_path, RATE, 1).build(corpus.read()[0], workers=1)
    assert len(begun) < 12


def test_a_damaged_file_of_the_cache_is_an_error_with_its_name(tmp_path):
    path = tmp_path / "x.stem.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(AudioError, match=r"x\.stem\.safetensors: not a decoded stem"):
        read_window(Part(path, RATE, 10), 0, 10)


def test_silence_is_kept(slakh, tmp_path):
    slakh.song(stems=[slakh.stem(np.zeros(4000)), slakh.stem(np.zeros(4000), 33)])
    (song,) = slakh.read()[0]
    (kept,) = StemCache(tmp_path, RATE, 1).build([song], workers=1)
    assert not read_window(kept.stems[0].cached, 0, 4000).any()
    assert isinstance(kept.stems[0].cached.path, Path)
