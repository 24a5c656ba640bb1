"""MedleyDB: metadata from elsewhere, lists of instruments, bleed as a text."""

import pytest
import yaml

from mge_plugin.config import ConfigError

STEMS = {
    "S01": {"filename": "A_T_STEM_01.wav", "instrument": "electric bass"},
    "S02": {"filename": "A_T_STEM_02.wav", "instrument": ["male singer", "vocalists"]},
    "S03": {"filename": "A_T_STEM_03.wav", "instrument": "Unlabeled"},
    "S04": {"filename": "A_T_STEM_04.wav", "instrument": "Main System"},
}


@pytest.fixture
def song(tmp_path, write):
    """Write a song's stems, and its metadata into a folder of their own."""

    def run(name="A_T", stems=STEMS, metadata="Metadata", **fields):
        folder = tmp_path / "db" / "Audio" / name
        for number in range(1, 5):
            write(folder / f"{name}_STEMS" / f"A_T_STEM_{number:02}.wav", channels=2)
        write(folder / f"{name}_RAW" / "A_T_RAW_01_01.wav")
        write(folder / f"{name}_MIX.wav")
        (tmp_path / metadata).mkdir(exist_ok=True)
        text = yaml.safe_dump({"has_bleed": "no", "stems": stems} | fields)
        (tmp_path / metadata / f"{name}_METADATA.yaml").write_text(text)
        return folder

    return run


def test_metadata_are_found_by_name_and_room_microphones_are_never_asked_for(
    index, song, tmp_path, labels
):
    folder = song()
    for path in (tmp_path / "db", folder.parent):
        corpus = index("medleydb", path, metadata_path=str(tmp_path / "Metadata"))
        expected = ["electric bass", "male singer and vocalists", "other", "other"]
        assert labels(corpus) == {"A_T": expected}
        assert len(corpus.songs[0].sources) == 2
        assert corpus.report.lines() == []


def test_metadata_beside_the_audio_need_no_option(index, song, tmp_path):
    song(metadata="db/Audio/A_T")
    assert len(index("medleydb", tmp_path / "db").songs) == 1


def test_a_song_without_metadata_says_which_option_helps(index, song, tmp_path):
    song()
    with pytest.raises(ConfigError, match=r"left out 1: song without metadata \(set metadata_path"):
        index("medleydb", tmp_path / "db")
    with pytest.raises(ConfigError, match=r"nowhere: no such folder"):
        index("medleydb", tmp_path / "db", metadata_path=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("yes", ["yes", True])
def test_bleed_is_a_text_and_no_is_no(index, song, tmp_path, yes):
    song("A_T")
    song("B_T", has_bleed=yes)
    keys = {"metadata_path": str(tmp_path / "Metadata")}
    assert len(index("medleydb", tmp_path / "db", **keys).songs) == 2
    corpus = index("medleydb", tmp_path / "db", drop_bleed=True, **keys)
    assert [s.id for s in corpus.songs] == ["A_T"]
    assert list(corpus.report.left_out) == ["song with bleed between its stems (drop_bleed)"]


def test_of_a_file_name_only_the_last_part_counts(index, song, tmp_path, write):
    write(tmp_path / "x.wav")
    stems = STEMS | {
        "S02": {"filename": "/etc/../../../x.wav", "instrument": "a"},
        "S03": {"filename": "..\\A_T_STEM_03.wav", "instrument": "tack piano"},
        "S04": "text",
    }
    song(stems=stems)
    corpus = index("medleydb", tmp_path / "db", metadata_path=str(tmp_path / "Metadata"))
    names = [part.path.name for part in corpus.songs[0].parts]
    assert names == ["A_T_STEM_01.wav", "A_T_STEM_03.wav"]
    assert len(corpus.report.left_out["stem listed without a file"]) == 2
