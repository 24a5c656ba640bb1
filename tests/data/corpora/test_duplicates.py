"""The same song in two corpora, and the same corpus twice."""

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.corpora.index import index_corpora
from mge_plugin.data.corpora.reader import CorpusConfig

RATE = 16_000
REASON = "song that another corpus has too"


@pytest.fixture
def song(tmp_path):
    """Write a song of two stems whose level changes, as music's does."""

    def write(corpus, name, seed, seconds=10.0, gain=1.0, kind="wav"):
        folder = tmp_path / corpus / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for stem in ("bass", "vocals"):
            levels = np.repeat(rng.uniform(0, 0.2, int(10 * seconds)), RATE // 10)
            audio = gain * levels * rng.standard_normal(len(levels))
            sf.write(folder / f"{stem}.{kind}", audio, RATE)

    return write


@pytest.fixture
def indexed(tmp_path):
    def run(**options):
        entries = [{"id": name, "path": str(tmp_path / name)} for name in ("one", "two")]
        entries[0] |= {"type": "folder"}
        entries[1] |= {"type": "folder"} | options
        configs = [parse_section(CorpusConfig, entry, "d") for entry in entries]
        return index_corpora(configs)

    return run


def test_artist_and_title_name_a_song_however_they_are_written(song, indexed):
    song("one", "Clara Berry And Wooldog - Waltz For My Victims", 0, 2.0)
    song("one", "Track00001", 1, 2.0)
    song("two", "ClaraBerryAndWooldog_WaltzForMyVictims", 2, 3.0)
    song("two", "Track00001", 3, 3.0)
    one, two = indexed()
    assert one.report.odd == {} and len(two.songs) == 2
    (place,) = two.report.odd[REASON]
    assert "WaltzForMyVictims" in place and "Waltz For My Victims" in place
    (kept,) = indexed(on_duplicates="leave_out")[1].songs
    assert kept.id == "Track00001"
    with pytest.raises(ConfigError, match=r"'two'.*WaltzForMyVictims"):
        indexed(on_duplicates="error")


def test_songs_of_other_splits_count_too(song, indexed):
    """As those of MUSDB18's validation split that are in MedleyDB."""
    song("one/train", "Artist - Another Song", 0, 2.0)
    song("one/validation", "Artist - The Very Song", 1, 2.0)
    song("two", "Artist_TheVerySong", 2, 3.0)
    _, two = indexed()
    assert len(two.report.odd[REASON]) == 1


def test_a_song_of_another_name_is_known_by_its_sound(song, indexed):
    song("one", "a", 0)
    song("one", "b", 1)
    song("two", "c", 0, gain=0.5, kind="flac")
    song("two", "d", 2)
    _, two = indexed()
    (place,) = two.report.odd[REASON]
    assert place.endswith("one/a") and "two/c" in place


def test_a_corpus_listed_twice_is_an_error(song, tmp_path, indexed):
    song("one", "a", 0, 2.0)
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(ConfigError, match="'one' and 'two' are the same corpus"):
        indexed()
