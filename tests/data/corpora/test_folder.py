"""Plain folders, manifests and folders of music: what a song is, and what is passed over."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from mge_plugin.config import ConfigError
from mge_plugin.data.corpora.folder import _label_of
from mge_plugin.data.dataset import create_mge_dataloader
from mge_plugin.tracks import Track

RATE = 16_000


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("bass", "bass"),
        ("01_Lead-Guitar_2", "lead guitar"),
        ("drums 12", "drums"),
        ("808", "808"),
        ("Klavier é 日本", "klavier é 日本"),
        ("synth.pad", "synth pad"),
    ],
)
def test_a_files_name_is_its_label_without_numbers_around_it(name, label):
    assert _label_of(name) == label


def test_songs_are_folders_with_audio_at_any_depth(index, write, tmp_path, labels):
    write(tmp_path / "Artist" / "Song [Live] é 日本." / "bass.wav")
    write(tmp_path / "Artist" / "Song [Live] é 日本." / "lead guitar.FLAC", format="FLAC")
    write(tmp_path / "Other Song" / "drums.aiff", 4800, 48_000, 2)
    write(tmp_path / "Other Song" / "piano.ogg", channels=2)
    corpus = index("folder", tmp_path)
    assert labels(corpus) == {
        "Artist/Song [Live] é 日本.": ["bass", "lead guitar"],
        "Other Song": ["drums", "piano"],
    }
    assert corpus.report.lines() == []


def test_what_is_no_stem_is_left_out_and_counted(index, write, tmp_path, labels):
    for name in ("a.wav", "b.wav", "Mixture.wav", "._a.wav", ".c.wav"):
        write(tmp_path / "song" / name)
    write(tmp_path / "__MACOSX" / "song" / "a.wav")
    write(tmp_path / "single" / "a.wav")
    write(tmp_path / "loose.wav")
    for name in ("cover.jpg", "x.JPG", "notes"):
        (tmp_path / "song" / name).write_bytes(b"x")
    (tmp_path / "song" / "zero.wav").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    corpus = index("folder", tmp_path)
    assert labels(corpus) == {"song": ["a", "b"]}
    assert {reason: len(places) for reason, places in corpus.report.left_out.items()} == {
        "file outside of a song's folder (with mixture_only: true it is a song)": 1,
        "file that is not read as audio (.jpg)": 2,
        "file that is not read as audio (no ending)": 1,
        "file of the mixture, which is the sum of stems": 1,
        "unreadable stem": 1,
        "song with fewer than 2 stems, too few for a triplet": 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"expected folders SONG/LABEL\.wav, found none$"),
        (["a.txt"], r"found none; left out 1: file that is not read as audio \(\.txt\)"),
    ],
)
def test_a_folder_without_songs_is_an_error(index, tmp_path, content, message):
    for name in content:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=message):
        index("folder", tmp_path)


def test_a_wrong_path_is_named(index, tmp_path, write):
    with pytest.raises(ConfigError, match=r"gone: no such folder"):
        index("folder", tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"a\.wav: not a folder"):
        index("folder", write(tmp_path / "a.wav"))


def test_split_folders_are_used_if_there_are_any_else_a_draw(index, write, tmp_path):
    for song in ("train/a", "train/b", "validation/c"):
        for stem in ("x", "y"):
            write(tmp_path / "split" / song / f"{stem}.wav")
            write(tmp_path / "drawn" / song.replace("/", "_") / f"{stem}.wav")
    assert [s.id for s in index("folder", tmp_path / "split").songs] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"has no split 'test', found \['train', 'validation'\]"):
        index("folder", tmp_path / "split", split="test")
    assert len(index("folder", tmp_path / "drawn").songs) == 3
    assert len(index("folder", tmp_path / "drawn", split="test", test_share=0.34).songs) == 1


def test_mp3_beside_other_formats_is_told(index, write, tmp_path):
    write(tmp_path / "song" / "a.wav", 8000)
    write(tmp_path / "song" / "b.mp3", 8000)
    assert [line.split(" (first")[0] for line in index("folder", tmp_path).report.lines()] == [
        "noticed 1: song with MP3 beside other formats, aligned to some 50 ms only"
    ]


def test_every_file_of_a_mixture_only_folder_is_a_song_whose_mixture_is_the_file(
    index, write, tmp_path
):
    write(tmp_path / "x" / "a.flac", 8000)
    write(tmp_path / "b.mp3", 8000, channels=2)
    corpus = index("folder", tmp_path, mixture_only=True)
    assert [song.id for song in corpus.songs] == ["b.mp3", "x/a.flac"]
    assert all(song.mixture_only and not song.sources for song in corpus.songs)
    entry = {"id": "a", "type": "folder", "path": str(tmp_path), "mixture_only": True}
    config = {"dataset_type": "mge_triplets", "datasets": [entry]}
    for reals, (item,) in create_mge_dataloader(config, 1, 4000, RATE, 1, num_workers=0):
        mixture, submixture, source = reals[0]
        assert item["mixture_only"] and item["prompt"] == {}
        assert mixture.any() and torch.equal(mixture, submixture) and not source.any()


def _csv(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def listed(write, tmp_path):
    """Four files that manifests list."""
    for name in ("a b/1.wav", "a b/2.wav", "é 日本/[3].wav", "é 日本/4.flac"):
        write(tmp_path / name)
    return tmp_path


ROWS = [("s", "bass", "a b/1.wav"), ("s", "drums", "a b/2.wav")]
MORE = [("t", "bass", "é 日本/[3].wav"), ("t", "piano", "é 日本/4.flac")]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_manifest_lists_the_stems_of_songs(index, listed, labels, ending):
    rows = [dict(zip(("song", "label", "path"), row, strict=True)) for row in ROWS + MORE]
    lines = [json.dumps(row) for row in rows]
    if ending == ".csv":
        lines = ["song,label,path", *(",".join(row.values()) for row in rows)]
    corpus = index("folder", _csv(listed / f"list{ending}", *lines))
    assert labels(corpus) == {"s": ["bass", "drums"], "t": ["bass", "piano"]}
    assert corpus.report.lines() == []


def test_lines_of_one_stem_are_summed_and_the_split_column_counts(index, listed):
    lines = [",".join((*row, split, stem)) for row, split, stem in zip(
        [*ROWS, ROWS[0][:2] + MORE[0][2:], *MORE],
        ("train", "train", "train", "test", "test"),
        ("one", "two", "one", "", ""),
        strict=True,
    )]  # fmt: skip
    path = _csv(listed / "list.csv", "song,label,path,split,stem", *lines)
    (song,) = index("folder", path).songs
    assert [(s.label, len(s.parts)) for s in song.stems] == [("bass", 2), ("drums", 1)]
    assert [s.id for s in index("folder", path, split="test").songs] == ["t"]


def test_paths_that_are_not_there_or_lead_out_are_left_out(index, listed, write, tmp_path):
    (listed / "in").mkdir()
    path = _csv(
        listed / "in" / "list.csv",
        "song,label,path",
        "s,bass,../a b/1.wav",
        f"s,drums,{listed}/a b/2.wav",
        "s,drums,link/deep/1.wav",
        "s,drums,gone.wav",
    )
    write(listed / "out" / "deep" / "1.wav")
    (listed / "in" / "link").symlink_to(listed / "out")
    with pytest.raises(ConfigError, match=r"left out 3: path that leads out .*: listed file that"):
        index("folder", path)
    path = _csv(listed / "in" / "list.csv", "song,label,path", *map(",".join, ROWS))
    corpus = index("folder", path, audio_path=str(listed))
    assert [p.path.name for p in corpus.songs[0].parts] == ["1.wav", "2.wav"]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["song,lable,path"], r"a\.csv: column: unknown value 'lable', did you mean 'lab"),
        ("a.csv", ["song,label,path", "s,bass,"], r"a\.csv:2: missing path"),
        ("a.jsonl", ["{"], r"a\.jsonl:1: not valid JSON"),
        ("a.jsonl", ["[]"], r"a\.jsonl:1: expected an object"),
        (
            "a.jsonl",
            ["", '{"sogn": 1}'],
            r"a\.jsonl:2: key: unknown value 'sogn', did you",
        ),
        ("a.csv", [], r"none of 0 songs is usable"),
        ("gone/a.csv", None, r"no such folder"),
        ("gone.csv", None, r"gone\.csv: cannot be read"),
    ],
)
def test_a_broken_manifest_names_its_line(index, tmp_path, name, lines, message):
    if lines is not None:
        _csv(tmp_path / name, *lines)
    with pytest.raises(ConfigError, match=message):
        index("folder", tmp_path / name)


def test_a_song_in_two_splits_is_an_error(index, listed):
    lines = [",".join((*row, split)) for row, split in zip(ROWS, ("train", "test"), strict=True)]
    with pytest.raises(ConfigError, match=r"song 's' is in several splits: \['test', 'train'\]"):
        index("folder", _csv(listed / "a.csv", "song,label,path,split", *lines))


def test_a_song_of_six_channels_24_bit_and_mono_stems_becomes_what_the_model_takes(write, tmp_path):
    write(tmp_path / "song" / "a.wav", 4000, channels=6, subtype="PCM_24")
    write(tmp_path / "song" / "b.wav", 4000, subtype="FLOAT")
    write(tmp_path / "song" / "c.mp3", 4000, channels=2)
    entry = {"id": "a", "type": "folder", "path": str(tmp_path)}
    config = {"dataset_type": "mge_triplets", "datasets": [entry], "epoch_items": 4}
    for reals, _ in create_mge_dataloader(config, 4, 4000, RATE, 2, num_workers=0):
        mixture, submixture, source = reals.unflatten(1, (3, 2)).unbind(1)
        assert reals.isfinite().all() and mixture.any()
        assert_array_equal(mixture, submixture + source)
        assert Track.SOURCE == 2 and np.isfinite(mixture.numpy()).all()
