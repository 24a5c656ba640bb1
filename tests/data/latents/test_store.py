"""Files of latents: headers, names, the index, what is broken."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mge_plugin.data.latents.store import LatentsError, LatentSong, Store, read_header, safe_name
from tests.data.latents.handmade import make_info, make_song, write


def test_headers_come_back_as_they_were_written(store):
    songs = store.songs()
    assert [song.id for song in songs.values()] == ["one", "short", "two"]
    for path, song in songs.items():
        assert song == make_song(song.id, song.frames)[0] == read_header(path)
        assert store.song_path(song.corpus, song.split, song.id) == path
    clap = make_song(clap=True)[0]
    assert LatentSong.from_json(clap.to_json()) == clap


def test_the_same_song_gives_the_same_bytes(store):
    before = {path: path.read_bytes() for path in store.songs()}
    for name, frames in {"one": 40, "two": 80, "short": 5}.items():
        write(store, *make_song(name, frames))
    assert {path: path.read_bytes() for path in store.songs()} == before


def test_headers_are_read_once_and_again_where_a_file_changed(store, monkeypatch):
    read = []

    def spy(path):
        read.append(path.stem)
        return read_header(path)

    monkeypatch.setattr("mge_plugin.data.latents.store.read_header", spy)
    first = store.songs()
    assert sorted(read) == ["one", "short", "two"]
    assert store.songs() == first and len(read) == 3
    write(store, *make_song("two", 90))
    assert [song.frames for song in store.songs().values()] == [40, 5, 90]
    assert read[3:] == ["two"]
    for path in first:
        path.unlink(missing_ok=path.stem == "one")
    assert store.songs() == {}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"stamp": 1}}'])
def test_an_index_that_cannot_be_used_is_written_again(store, content, caplog):
    songs = store.songs()
    (store.root / "index.json").write_text(content)
    assert store.songs() == songs
    assert ("index.json: cannot be used" in caplog.text) == (content in ("", "[]"))
    assert len(json.loads((store.root / "index.json").read_text())) == 3


def test_a_file_that_is_cut_or_of_another_kind_says_so(store, tmp_path):
    path = next(iter(store.songs()))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LatentsError, match=f"{path}: cannot be read as latents"):
        read_header(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(LatentsError, match="has no latents of `mge encode`"):
        read_header(path)


def test_a_header_of_another_format_or_without_a_part_is_refused():
    text = make_song()[0].to_json()
    with pytest.raises(ValueError, match="another format"):
        LatentSong.from_json(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="its header is incomplete"):
        LatentSong.from_json(text.replace('"stems"', '"other"'))


def test_names_that_no_file_can_have_stay_apart(tmp_path):
    store = Store(tmp_path)
    names = ["AC/DC", "AC_DC", "AC:DC", "..", "a" * 300]
    paths = {store.song_path("c", "train", name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == tmp_path / "c" / "train" for path in paths)
    assert safe_name("Track00001") == "Track00001"


def test_a_store_goes_on_only_with_the_same_way_of_encoding(tmp_path):
    store = Store(tmp_path)
    store.claim(make_info())
    store.claim(make_info())
    with pytest.raises(ValueError, match="autoencoder is 'vae' and 'other'"):
        store.claim(make_info(autoencoder="other"))
    assert store.info() == make_info()
