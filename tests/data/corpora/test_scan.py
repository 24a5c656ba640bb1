"""Links and companions: what lies in a corpus, and what only seems to."""

import os

import pytest

TWO = ("a", "b")


@pytest.fixture
def song(write, tmp_path):
    """A song of two stems in a corpus, and a folder outside of it."""
    for stem in TWO:
        write(tmp_path / "db" / "song" / f"{stem}.wav")
        write(tmp_path / "outside" / f"{stem}.wav")
    return tmp_path / "db" / "song"


OUT = "link that leads out of the corpus (follow_links: true would use it)"


def test_links_that_lead_out_are_left_out_unless_asked_for(index, song, tmp_path, labels):
    (song / "c.wav").symlink_to(tmp_path / "outside" / "a.wav")
    (song.parent / "linked").symlink_to(tmp_path / "outside")
    corpus = index("folder", song.parent)
    assert labels(corpus) == {"song": ["a", "b"]}
    links = [str(song.parent / "linked"), str(song / "c.wav")]
    assert {k: sorted(v) for k, v in corpus.report.left_out.items()} == {OUT: links}
    corpus = index("folder", song.parent, follow_links=True)
    assert labels(corpus) == {"linked": ["a", "b"], "song": ["a", "b", "c"]}


def test_links_within_the_corpus_and_the_corpus_itself_being_one_are_fine(
    index, song, tmp_path, labels
):
    (song / "c.wav").symlink_to("a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "db")
    corpus = index("folder", tmp_path / "link")
    assert labels(corpus) == {"song": ["a", "b", "c"]}
    assert corpus.report.lines() == []


def test_links_to_nothing_and_loops_end(index, song, labels):
    (song / "c.wav").symlink_to("gone.wav")
    (song / "loop").symlink_to(song.parent)
    corpus = index("folder", song.parent, follow_links=True)
    assert labels(corpus) == {"song": ["a", "b"]}
    assert set(corpus.report.left_out) == {
        "link to nothing",
        "link to a folder that is listed already",
    }


def test_stems_of_slakh_behind_a_link_that_leads_out_are_left_out(index, slakh, two, tmp_path):
    folder = slakh.song(stems=[*two, two[0]])
    moved = (folder / "stems" / "S02.wav").rename(tmp_path / "S02.wav")
    (folder / "stems" / "S02.wav").symlink_to(moved)
    corpus = index("slakh", slakh.root)
    assert len(corpus.songs[0].stems) == 2
    assert set(corpus.report.left_out) == {OUT, "stem listed but not rendered"}


@pytest.mark.parametrize("follow_links", [False, True])
def test_folders_that_link_to_each_other_end_and_each_song_comes_once(
    index, write, tmp_path, labels, follow_links
):
    for name in ("a", "b"):
        for stem in TWO:
            write(tmp_path / name / "song" / f"{stem}.wav")
    for name, other in (("a", "b"), ("b", "a")):
        for link in ("l1", "l2"):
            (tmp_path / name / link).symlink_to(tmp_path / other)
    corpus = index("folder", tmp_path, follow_links=follow_links)
    assert labels(corpus) == {"a/song": ["a", "b"], "b/song": ["a", "b"]}


def test_pipes_are_left_out_and_do_not_block(index, song, labels):
    os.mkfifo(song / "pipe.wav")
    corpus = index("folder", song.parent)
    assert labels(corpus) == {"song": ["a", "b"]}
    assert corpus.report.left_out == {"pipe, socket or device": [str(song / "pipe.wav")]}


def test_metadata_that_is_a_pipe_is_left_out(index, slakh, two):
    slakh.song("T1", two)
    folder = slakh.song("T2", two)
    (folder / "metadata.yaml").unlink()
    os.mkfifo(folder / "metadata.yaml")
    assert [song.id for song in index("slakh", slakh.root).songs] == ["T1"]
