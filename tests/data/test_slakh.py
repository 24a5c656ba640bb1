"""The Slakh reader: what it takes, what it leaves out and says so, and what it never touches."""

from unicodedata import normalize

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.data.corpora.slakh import _label_of

RATE = 16_000


def _labels(song):
    return [stem.label for stem in song.stems]


def test_a_song_is_its_stems_with_their_labels_rates_and_lengths(slakh, noise):
    stems = [slakh.stem(noise(1600), 33), slakh.stem(noise(4410), 0, 44_100, ".flac")]
    folder = slakh.song("Track00007", stems)
    (song,), report = slakh.read()
    assert (song.id, song.path, song.split) == ("Track00007", folder, "train")
    assert _labels(song) == ["bass", "piano"]
    assert [stem.path.name for stem in song.stems] == ["S00.wav", "S01.flac"]
    assert [(part.sample_rate, part.num_frames) for part in song.parts] == [
        (RATE, 1600),
        (44_100, 4410),
    ]
    assert song.seconds == 0.1 and song.samples(8000) == 800
    assert report.lines() == []


def test_songs_come_by_name_whatever_the_order_on_disk(slakh, two):
    for name in ("Track00002", "Track00010", "Track00001"):
        slakh.song(name, two)
    songs, _ = slakh.read()
    assert [song.id for song in songs] == ["Track00001", "Track00002", "Track00010"]


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ({"program_num": 0, "inst_class": "Piano"}, "piano"),
        ({"program_num": 33, "inst_class": "Bass"}, "bass"),
        ({"program_num": 128, "inst_class": "Drums"}, "drums"),
        ({"program_num": 0, "is_drum": True}, "drums"),
        ({"program_num": 52, "inst_class": "Strings (continued)"}, "choir"),
        ({"program_num": 51, "inst_class": "Strings (continued)"}, "strings"),
        ({"program_num": 55}, "orchestra hit"),
        ({"program_num": 20}, "organ"),
        ({"program_num": 22, "inst_class": "Organ"}, "harmonica"),
        ({"program_num": 23}, "accordion"),
        ({"program_num": 47}, "timpani"),
        ({"program_num": 103, "inst_class": "Sound Effects"}, "synth effects"),
        ({"program_num": 119, "inst_class": "Sound effects"}, "sound effects"),
        ({"inst_class": "Sound Effects"}, "synth effects"),
        ({"inst_class": "Sound effects"}, "sound effects"),
        ({"program_num": 129, "inst_class": "Strings (continued)"}, "strings"),
        ({"program_num": "None", "inst_class": "Brass"}, "brass"),
        ({"program_num": None, "inst_class": None}, "other"),
        ({}, "other"),
    ],
)
def test_labels_follow_the_drum_flag_then_the_program_then_the_class(entry, label):
    assert _label_of(entry) == label


def test_every_program_has_a_label(slakh):
    labels = {_label_of({"program_num": program}) for program in range(129)}
    assert len(labels) == 22 and "other" not in labels


def test_a_stem_listed_but_not_rendered_is_skipped_and_counted_in_one_line(slakh, two, caplog):
    for name in ("Track00001", "Track00002"):
        slakh.song(name, [*two, slakh.stem(None, 103)])
    songs, report = slakh.read()
    assert [len(song.stems) for song in songs] == [2, 2]
    report.log("corpus")
    (record,) = caplog.records
    assert "corpus: left out 2: stem listed but not rendered (first: " in record.message
    assert "Track00001" in record.message and "S02" in record.message


def test_a_file_that_is_there_is_used_whatever_the_flag_says(slakh, two):
    metadata = slakh.song(stems=two) / "metadata.yaml"
    text = metadata.read_text()
    assert "audio_rendered: true" in text
    metadata.write_text(text.replace("audio_rendered: true", "audio_rendered: false"))
    (song,), report = slakh.read()
    assert len(song.stems) == 2 and not report.left_out


def test_the_audio_folder_of_another_track_is_ignored(slakh, two, noise):
    other = slakh.song("Track00002", [slakh.stem(noise(800), 5)] * 3)
    folder = slakh.song("Track00001", two, audio_dir=str(other / "stems"))
    songs, _ = slakh.read()
    assert [stem.path.parent for stem in songs[0].stems] == [folder / "stems"] * 2


@pytest.mark.parametrize("name", ["../x", "../../Track00002/stems/S00", "/x", "..", ".", ""])
def test_a_stem_name_cannot_climb_out_of_its_folder(slakh, two, noise, name):
    slakh.song("Track00002", two)
    stems = {"S00": two[0], "S01": two[1], name: two[0]}
    folder = slakh.song("Track00001", stems)
    two[0].write(folder / "x.wav")
    songs, report = slakh.read()
    assert [stem.path.name for stem in songs[0].stems] == ["S00.wav", "S01.flac"]
    assert list(report.left_out) == ["stem listed but not rendered"]


def test_companion_files_are_no_stems(slakh, two, noise):
    stems = {"S00": two[0], "S01": two[1], "._S02": two[0]}
    folder = slakh.song("Track00001", stems)
    (folder / "stems" / "._S00.flac").write_bytes(bytes.fromhex("00051607") + bytes(78))
    (folder.parent / "._Track00001").write_bytes(bytes(82))
    (folder.parent / ".Track00002").mkdir()
    (song,), report = slakh.read()
    assert [stem.path.name for stem in song.stems] == ["S00.wav", "S01.flac"]
    assert list(report.left_out.values()) == [[f"{folder / 'metadata.yaml'}: ._S02"]]


@pytest.mark.parametrize("name", ["S01.FLAC", "S01.Flac", "S01.WAV", "s01.flac"])
def test_names_and_endings_may_be_of_either_case(slakh, two, name):
    folder = slakh.song(stems=two)
    (folder / "stems" / "S01.flac").rename(folder / "stems" / name)
    (song,), _ = slakh.read()
    assert [stem.path.name for stem in song.stems] == ["S00.wav", name]


def test_flac_goes_before_wav_of_the_same_stem(slakh, two):
    folder = slakh.song(stems=two)
    two[0].write(folder / "stems" / "S01.wav")
    (song,), _ = slakh.read()
    assert song.stems[1].path.name == "S01.flac"


def test_a_stem_of_another_format_is_not_called_unrendered(slakh, two, noise):
    folder = slakh.song(stems=[*two, slakh.stem(None)])
    sf.write(folder / "stems" / "S02.ogg", noise(800), RATE)
    _, report = slakh.read()
    assert list(report.left_out) == ["stem listed but neither FLAC nor WAV"]


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_brackets_spaces_and_accents_in_names_are_names(slakh, two, listed, on_disk):
    name = "Lead [Live] é 日本."
    listed, on_disk = normalize(listed, name), normalize(on_disk, name)
    folder = slakh.song("Track [Live] é 日本", {"S00": two[0], listed: two[1]})
    (folder / "stems" / f"{listed}.flac").rename(folder / "stems" / f"{on_disk}.flac")
    (song,), report = slakh.read()
    assert [stem.path.stem for stem in song.stems] == ["S00", on_disk]
    assert not report.left_out


def test_a_song_folder_may_be_called_anything_if_it_has_metadata(slakh, two):
    slakh.song("My Song", two)
    (slakh.root / "train" / "notes").mkdir()
    songs, report = slakh.read()
    assert [song.id for song in songs] == ["My Song"] and not report.left_out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"stems: [unclosed", "song whose metadata cannot be read (ParserError)"),
        (b"\xff\xfe\x00\xd8 not text", "song whose metadata cannot be read (ReaderError)"),
        (b"date: 2021-13-45", "song whose metadata lists no stems"),
        (b"a: !!python/object:os.system x", "song whose metadata lists no stems"),
        (b"", "song whose metadata lists no stems"),
        (b"just text", "song whose metadata lists no stems"),
        (b"UUID: x", "song whose metadata lists no stems"),
        (b"stems:", "song whose metadata lists no stems"),
        (b"stems: [S00, S01]", "song whose metadata lists no stems"),
        (b"stems: {S00: , S01: text}", "stem listed without its fields"),
        (None, "song without metadata"),
    ],
)
def test_a_song_with_broken_metadata_is_left_out_and_named(slakh, two, content, reason):
    slakh.song("Track00002", two)
    metadata = slakh.song("Track00001", two) / "metadata.yaml"
    if content is None:
        metadata.unlink()
    else:
        metadata.write_bytes(content)
    songs, report = slakh.read()
    assert [song.id for song in songs] == ["Track00002"]
    found = next(iter(report.left_out))
    assert found.startswith(reason)
    assert report.left_out[found][0].startswith(str(metadata))


def test_metadata_with_a_byte_order_mark_or_in_utf_16_is_read(slakh, two):
    for name, encoding in (("Track00001", "utf-8-sig"), ("Track00002", "utf-16")):
        metadata = slakh.song(name, two) / "metadata.yaml"
        metadata.write_text(metadata.read_text(encoding="utf-8"), encoding=encoding)
    songs, _ = slakh.read()
    assert len(songs) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not readable as audio (the file is empty)"),
        (b"text", "not readable as audio (Format not recognised.)"),
        (None, "the header says 0 samples (44 bytes)"),
    ],
)
def test_an_unreadable_stem_is_left_out_and_its_song_kept(slakh, two, content, reason):
    path = slakh.song(stems=[*two, two[0]]) / "stems" / "S02.wav"
    sf.write(path, np.zeros(0), RATE)
    if content is not None:
        path.write_bytes(content)
    (song,), report = slakh.read()
    assert len(song.stems) == 2
    assert report.left_out == {"unreadable stem": [f"{path}: {reason}"]}


def test_a_song_of_one_stem_is_left_out(slakh, two):
    slakh.song("Track00001", two[:1])
    slakh.song("Track00002", two)
    songs, report = slakh.read()
    assert [song.id for song in songs] == ["Track00002"]
    assert list(report.left_out) == ["song with fewer than 2 stems, too few for a triplet"]


def test_a_stem_cut_short_is_used_and_reported(slakh, two, cut_in_half):
    path = slakh.song(stems=two) / "stems" / "S00.wav"
    cut_in_half(path)
    (song,), report = slakh.read()
    assert song.parts[0].num_frames < 1600 == song.parts[1].num_frames
    assert report.odd == {"stem that ends early, silent from there on": [str(path)]}


def test_lengths_within_a_hundredth_are_not_worth_a_line(slakh, noise):
    slakh.song(stems=[slakh.stem(noise(1600)), slakh.stem(noise(1590))])
    assert slakh.read()[1].lines() == []


def test_the_index_reads_three_blocks_of_a_file_of_floats_at_most(slakh, two, monkeypatch):
    read, sizes = sf.SoundFile.read, []

    def counted(file, frames=-1, **options):
        sizes.append(frames)
        return read(file, frames, **options)

    slakh.song(stems=two)
    monkeypatch.setattr(sf.SoundFile, "read", counted)
    assert len(slakh.read()[0]) == 1
    assert len(sizes) <= 3 * len(two)
    assert all(0 < size < 2**20 for size in sizes)


@pytest.mark.parametrize("text", ["1999", "Yes", "off", "0123", "1:30"])
def test_a_text_that_yaml_takes_for_something_else_stays_a_text(slakh, two, text):
    folder = slakh.song("T1", two)
    metadata = folder / "metadata.yaml"
    lines = metadata.read_text().replace("inst_class: Piano", f"inst_class: {text}")
    lines = lines.replace("program_num: 33", "program_num: null")
    metadata.write_text(lines.replace("UUID: T1", f"UUID: {text}"))
    songs, _ = slakh.read()
    assert [stem.label for stem in songs[0].stems] == [text.lower(), "drums"]
