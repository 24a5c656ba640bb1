"""The kept index: nothing is read twice, and everything that changed is."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mge_plugin.data.corpora import reader
from mge_plugin.data.corpora.index import cache_folder

SONGS = ("a", "b", "c")


@pytest.fixture
def songs(write, tmp_path):
    for song in SONGS:
        for stem in ("bass", "drums"):
            write(tmp_path / "db" / song / f"{stem}.wav")
    return tmp_path / "db"


@pytest.fixture
def opened(monkeypatch):
    """Names of the songs whose headers were read."""
    names = []
    real = reader.audio_info

    def info(path):
        names.append(path.parent.name)
        return real(path)

    monkeypatch.setattr(reader, "audio_info", info)
    return names


def _cache_file(folder):
    (path,) = folder.iterdir()
    return path


def test_a_second_run_opens_no_file_and_finds_the_same(index, songs, tmp_path, opened):
    first = index("folder", songs, tmp_path / "cache")
    assert sorted(set(opened)) == list(SONGS)
    opened.clear()
    second = index("folder", songs, tmp_path / "cache")
    assert opened == [] and second == first


def _replace_under_old_time(path, write):
    """Another rate and as many bytes, with the time of the file before."""
    status = path.stat()
    write(path, 800, 8000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def test_only_songs_that_changed_are_read_again(index, songs, tmp_path, opened, write):
    cache = tmp_path / "cache"
    index("folder", songs, cache)
    changes = {
        "a": lambda: write(songs / "a" / "bass.wav", 800),
        "b": lambda: write(songs / "b" / "piano.wav"),
        "c": lambda: os.utime(songs / "c" / "drums.wav", ns=(1, 1)),
        "d": lambda: [write(songs / "d" / f"{name}.wav") for name in ("x", "y")],
        "a again": lambda: _replace_under_old_time(songs / "a" / "bass.wav", write),
    }
    for name, change in changes.items():
        opened.clear()
        change()
        assert index("folder", songs, cache) == index("folder", songs)
        opened.clear()
        index("folder", songs, cache)
        assert opened == [], name
    (songs / "b" / "piano.wav").unlink()
    opened.clear()
    corpus = index("folder", songs, cache)
    assert set(opened) == {"b"}
    assert [len(song.stems) for song in corpus.songs] == [2, 2, 2, 2]
    assert corpus.songs[0].parts[0].num_frames == 800


def test_a_removed_song_is_gone(index, songs, tmp_path):
    index("folder", songs, tmp_path / "cache")
    (songs / "a").rename(tmp_path / "elsewhere")
    assert [s.id for s in index("folder", songs, tmp_path / "cache").songs] == ["b", "c"]
    assert len(json.loads(_cache_file(tmp_path / "cache").read_bytes())) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b"\xff\xfe\x00"])
def test_a_damaged_cache_is_made_anew_with_a_note(index, songs, tmp_path, content, caplog):
    first = index("folder", songs, tmp_path / "cache")
    path = _cache_file(tmp_path / "cache")
    good = path.read_bytes()
    path.write_bytes(content)
    assert index("folder", songs, tmp_path / "cache") == first
    assert json.loads(path.read_bytes()) == json.loads(good)
    assert ("written again" in caplog.text) == (content != b'{"x": 1}')


@pytest.mark.parametrize("key", ["stamp", "stems", "origin", "report"])
@pytest.mark.parametrize("value", [None, 1, "x", [1], {"x": 1}])
def test_an_entry_that_is_none_is_read_again(index, songs, tmp_path, key, value):
    first = index("folder", songs, tmp_path / "cache")
    path = _cache_file(tmp_path / "cache")
    entries = json.loads(path.read_bytes())
    next(iter(entries.values()))[key] = value
    path.write_text(json.dumps(entries))
    assert [s.stems for s in index("folder", songs, tmp_path / "cache").songs] == [
        s.stems for s in first.songs
    ]


def test_labels_and_filters_need_no_new_reading(index, songs, tmp_path, opened, labels):
    index("folder", songs, tmp_path / "cache")
    opened.clear()
    keys = {"label_map": {"bass": "double bass"}, "exclude": ["b"]}
    corpus = index("folder", songs, tmp_path / "cache", **keys)
    assert opened == []
    assert labels(corpus) == {name: ["double bass", "drums"] for name in "ac"}


def test_options_that_change_what_a_song_is_have_a_cache_of_their_own(index, songs, tmp_path):
    index("folder", songs, tmp_path / "cache")
    corpus = index("folder", songs, tmp_path / "cache", mixture_only=True)
    assert len(corpus.songs) == 6 and len(list((tmp_path / "cache").iterdir())) == 2


def test_a_file_that_could_not_be_read_is_tried_again(index, songs, tmp_path, opened):
    (songs / "a" / "x.wav").write_bytes(b"")
    for _ in range(2):
        opened.clear()
        index("folder", songs, tmp_path / "cache")
    assert set(opened) == {"a"}


def test_a_changed_manifest_counts_at_once(index, songs, tmp_path, labels):
    path = tmp_path / "db" / "list.csv"
    for word in ("bass", "tuba"):
        path.write_text(f"song,label,path\ns,{word},a/bass.wav\ns,drums,a/drums.wav\n")
        assert labels(index("folder", path, tmp_path / "cache")) == {"s": [word, "drums"]}


def test_names_that_are_no_utf_8_are_remembered_too(index, songs, tmp_path, opened):
    name = os.fsdecode(b"caf\xe9")
    try:
        (songs / "a").rename(songs / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    first = index("folder", songs, tmp_path / "cache")
    opened.clear()
    assert index("folder", songs, tmp_path / "cache") == first
    assert opened == [] and name in {song.id for song in first.songs}


def test_a_folder_that_cannot_be_written_to_is_told_and_no_obstacle(index, songs, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert len(index("folder", songs, tmp_path / "file" / "cache").songs) == 3
    assert "the index is not kept" in caplog.text


def test_several_at_once_leave_a_whole_file(index, songs, tmp_path):
    def run(_):
        return index("folder", songs, tmp_path / "cache")

    with ThreadPoolExecutor(4) as pool:
        corpora = list(pool.map(run, range(8)))
    assert all(corpus == corpora[0] for corpus in corpora)
    assert len(json.loads(_cache_file(tmp_path / "cache").read_bytes())) == 3


def test_the_setting_is_the_users_cache_folder_a_folder_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto").is_relative_to(tmp_path)
    assert cache_folder(str(tmp_path / "x")) == tmp_path / "x"
    assert cache_folder(None) is None


def test_other_ranks_read_what_the_first_has_indexed(slakh, two, tmp_path, monkeypatch, digests):
    """They open no file of the corpus: its headers, and even its folders, may be gone."""
    for name in ("T1", "T2"):
        slakh.song(name, two)
    keys = {"index_cache": str(tmp_path / "index"), "cache_dir": str(tmp_path / "decoded")}
    first = digests(slakh.loader(batch_size=1, **keys))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("mge_plugin.data.dataset.index_corpora", None)
    assert digests(slakh.loader(batch_size=1, **keys)) == first
    monkeypatch.undo()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("os.getppid", lambda: -1)  # a file of another run is not used
    assert digests(slakh.loader(batch_size=1, **keys)) == first
