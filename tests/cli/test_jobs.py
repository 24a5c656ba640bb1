"""From a command line to jobs: songs, prompts, and names that no two results share."""

import json
import os
from pathlib import Path
from unicodedata import normalize

import pytest

from mge_plugin.cli.jobs import (
    Job,
    Prompts,
    _Item,
    _Line,
    _span,
    find_songs,
    new_jobs,
    song_jobs,
    split_words,
)
from mge_plugin.cli.options import ExtractOptions, NewOptions, OutputOptions, PromptOptions
from mge_plugin.config import ConfigError
from mge_plugin.files import distinct_paths, output_name
from mge_plugin.models.hub import Card

OUT = OutputOptions(out=Path("out"))
CARD = Card(labels=("bass", "synth lead"))


def jobs_of(items, *texts, task="extract", words=(), output=OUT, **modes):
    options = PromptOptions(prompt=texts)
    extract = ExtractOptions(**modes) if task == "extract" else None
    return song_jobs(Prompts(task, options, words, CARD, extract), items, 0, output)


def item(path, folder="", **line):
    return _Item(Path(path), Path(folder), _Line(**line))


def names(job, *tracks):
    return [job.file_name(track) for track in tracks]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("song_the sound of the bass", "song_the_sound_of_the_bass"),
        ("a/b: c?", "a_b_c"),
        ("../..", "untitled"),
        ("NUL", "NUL_"),
        ("lpt¹", "lpt¹_"),
        ("console", "console"),
        ("trailing. ", "trailing"),
        (normalize("NFD", "é"), normalize("NFC", "é")),
        ("\udcff", "untitled"),
    ],
)
def test_a_name_is_safe(text, name):
    assert output_name(text) == name


@pytest.mark.parametrize("letter", ["x", "é", "歌"])
def test_long_names_are_cut_to_100_bytes_and_stay_different(letter):
    cut = {output_name(letter * 200 + end, "_seed3") for end in ("", "a", "b")}
    assert len(cut) == 3
    for name in cut:
        assert len(name.encode()) <= 100
        assert name.startswith(letter * 20)
        assert name.endswith("_seed3")


@pytest.mark.parametrize("pair", [("x", "x"), ("A", "a"), ("é", normalize("NFD", "é"))])
def test_names_that_a_file_system_may_take_for_one_get_a_hash(pair):
    paths = [Path("f", name) for name in (*pair, "other")]
    first, second, other = distinct_paths(paths, ["1", "2", "3"])
    assert first.name.casefold() != second.name.casefold()
    assert (first.parent, other) == (Path("f"), Path("f", "other"))
    tagged = distinct_paths([Path("x"), Path("x")], ["1", "2"])
    assert len(set(distinct_paths([Path("x"), Path("x"), tagged[0]], ["1", "2", "3"]))) == 3


def test_files_are_named_by_song_and_instrument():
    (job,) = jobs_of([item("a/song.wav")], "The sound of the bass", "drums")
    assert job.json_path == Path("out/song_bass_drums.json")
    assert names(job, "bass", "drums", "residual") == [
        "song_bass",
        "song_drums",
        "song_bass_drums_residual",
    ]
    (job,) = jobs_of([item("x/y.wav", "CD 1/con")], "bass")
    assert job.json_path == Path("out/CD_1/con_/y_bass.json")


def test_with_the_layout_folders_each_song_has_one():
    folders = OutputOptions(out=Path("out"), layout="folders")
    (job,) = jobs_of([item("song.wav", "CD 1")], "bass", output=folders)
    assert job.json_path == Path("out/CD_1/song/bass.json")
    assert names(job, "bass", "residual") == ["bass", "bass_residual"]


@pytest.mark.parametrize(
    "items",
    [
        [item("a/x.wav"), item("b/x.wav")],
        [item("A.wav"), item("a.wav")],
        [item("x.wav"), item("x.flac")],
        [item("1/x.wav", "a b"), item("2/x.wav", "a_b")],
        [item("a.wav", prompt="b_c"), item("a_b.wav", prompt="c")],
        [item("a.wav", prompt="bass!"), item("a.wav", prompt="bass?")],
        [item("a.wav", prompt=["b", "c"]), item("a.wav", prompt="b c")],
        [item("a.wav", prompt=["b", "c"]), item("a.wav", prompt="b")],
        [item("a.wav", prompt="b"), item("a.wav", prompt="b residual")],
        [item("a.wav", seed=seed) for seed in (1, 2)],
        [item(f"{name}.wav", name="x") for name in "ab"],
    ],
    ids=str,
)
def test_no_two_results_have_one_file(items):
    first, second = jobs_of(items, "bass")
    assert not first.claims & second.claims
    again = jobs_of(items[::-1], "bass")[::-1]  # whatever the order
    assert [job.base for job in again] == [first.base, second.base]


def test_a_request_that_is_repeated_is_computed_once(capsys):
    assert len(jobs_of([item("x.wav"), item("./x.wav")], "bass")) == 1
    assert capsys.readouterr().err.endswith(": 1\n")


def test_results_without_a_song_are_named_by_prompt_and_seed():
    prompts = Prompts("compose", PromptOptions(prompt=("bass", "drums")), (), CARD)
    jobs = new_jobs(prompts, NewOptions(number=2), 5, OUT)
    assert [job.base.name for job in jobs] == ["bass_drums_seed5", "bass_drums_seed6"]
    assert [job.seed for job in jobs] == [5, 6]
    assert names(jobs[0], "bass", "mixture") == [
        "bass_drums_seed5_bass",
        "bass_drums_seed5_mixture",
    ]
    for others, name in (((), "unconditional"), (("source=flute",), "flute")):
        prompts = Prompts("generate", PromptOptions(track_prompt=others), (), CARD)
        (job,) = new_jobs(prompts, NewOptions(), 0, OUT)
        assert job.base.name == f"{name}_seed0"


def test_words_are_prompts_and_labels_become_the_prompts_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    songs, words = split_words(["song", "there", "x.wav", "a/b", "bass", "synth lead", "a horn"])
    assert songs == [Path("song"), Path("there"), Path("x.wav"), Path("a/b")]
    (job,) = jobs_of([item("x.wav")], "bass", words=words)
    assert job.prompts == (
        "The sound of the bass",
        "The sound of the synth lead",
        "a horn",
        "bass",  # --prompt is taken as it is
    )
    (job,) = jobs_of([item("x.wav")], task="accompany", words=["rock"])
    assert job.prompts == ("rock",)


def test_minus_writes_the_residual_alone_and_all_extracts_every_label():
    (job,) = jobs_of([item("x.wav")], minus=("bass", "drums"))
    assert (job.minus, names(job, "residual")) == (True, ["x_without_bass_drums"])
    (job,) = jobs_of([item("x.wav")], all=True)
    assert job.json_path.name == "x_all.json"
    assert names(job, *job.sources, "residual") == ["x_bass", "x_synth_lead", "x_all_residual"]
    for modes in ({"all": True, "minus": ("bass",)}, {"all": True, "words": ["bass"]}):
        with pytest.raises(ValueError, match="--all"):
            jobs_of([item("x.wav")], **modes)


def test_modes_and_files_are_part_of_the_request_and_defaults_are_not(tmp_path):
    job = Job("extract", ("bass",), tmp_path / "x", "x_")
    assert not {"chain", "minus", "all"} & job.described().keys()
    assert Job("extract", ("a",), tmp_path, "", chain=True).described()["chain"] is True


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:40-0:52", (40, 52)), ("1-2.5", (1, 2.5)), ("1:02:03-1:02:04", (3723, 3724))],
)
def test_a_span_is_in_seconds_or_minutes(text, seconds):
    assert _span(text) == seconds


@pytest.fixture
def manifest(tmp_path):
    """A function that writes a manifest, one value per line."""

    def write(*lines, name="list.jsonl"):
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / name).write_text("\n".join(texts))
        return tmp_path / name

    return write


def test_a_folder_is_every_audio_file_in_it_in_order(tmp_path, capsys):
    audio = ["B.WAV", "a.flac", "CD 1/x.mp3", "CD 1/deep/y.aiff", "CD [2]/é 日本.ogg"]
    hidden = ["._a.flac", ".DS_Store", "__MACOSX/a.flac", ".git/z.wav"]
    others = ["cover.jpg", "CD 1/notes.txt"]
    for name in audio + hidden + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path / "CD 1")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "1.wav").symlink_to("2.wav")  # a cycle of links
    (tmp_path / "2.wav").symlink_to("1.wav")
    items = find_songs([tmp_path], tmp_path / "out")
    assert [i.path.relative_to(tmp_path).as_posix() for i in items] == sorted(audio)
    assert all(i.folder == i.path.parent.relative_to(tmp_path) for i in items)
    counts = "3 broken links, pipes or devices, 4 hidden, 1 linked folders, 2 not audio"
    assert capsys.readouterr().err.endswith(f": {counts}\n")


def test_results_in_a_folder_are_not_songs(tmp_path):
    for name in ("x.wav", "out/x_bass_source.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [i.path for i in find_songs([tmp_path], tmp_path / "out")] == [tmp_path / "x.wav"]
    with pytest.raises(ConfigError, match=r"--out"):
        find_songs([tmp_path], tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="none"):
        find_songs([tmp_path / "none"], tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("{", ":2"),
        ("[" * 100_000, ":2"),
        ("[1]", ":2"),
        ({"audio": "x.wav", "promt": "a"}, ":2.*'promt'.*'prompt'"),
        ({"audio": "x.wav", "seconds": 3}, ":2.*seconds"),
        ({"prompt": "bass"}, ":2.*audio"),
        ({"audio": 3}, ":2.*audio"),
        ({"audio": "/etc/x.wav"}, ":2.*audio"),
        ({"audio": "C:\\x.wav"}, ":2.*audio"),
        ({"audio": "a/../../x.wav"}, ":2.*audio"),
        ({"audio": "a\\..\\x.wav"}, ":2.*audio"),
        ({"audio": "link/x.wav"}, ":2.*audio"),
        ({"audio": "x.wav", "prompt": 3}, ":2.*prompt"),
        ({"audio": "x.wav", "prompt": []}, ":2.*prompt"),
        ({"audio": "x.wav", "prompt": ["a", 1]}, ":2.*prompt"),
        ({"audio": "x.wav", "prompt": [" "]}, ":2.*prompt"),
        ({"audio": "x.wav", "seed": -1}, ":2.*seed"),
        ({"audio": "x.wav", "seed": 1.5}, ":2.*seed"),
    ],
    ids=str,
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path_factory, manifest, tmp_path, line, key):
    (tmp_path / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    path = manifest({"audio": "fine.wav"}, line)
    with pytest.raises(ConfigError, match=key):
        find_songs([path], tmp_path / "out")


def test_a_manifest_that_cannot_be_read_or_is_empty_is_named(tmp_path, manifest):
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\xff")
    for name in (manifest("", " ").name, "absent.jsonl", "latin.jsonl"):
        with pytest.raises(ConfigError, match=name):
            find_songs([tmp_path / name], Path("out"))


def test_prompts_that_a_task_cannot_take_are_named_with_their_line(tmp_path, manifest):
    path = manifest({"audio": "x.wav", "prompt": ["a", "b"]})
    items = find_songs([path], tmp_path)
    with pytest.raises(ConfigError, match=r"list.jsonl:1: accompany"):
        jobs_of(items, task="accompany")
    with pytest.raises(ConfigError, match=r"list.jsonl:1: extract"):
        jobs_of(find_songs([manifest({"audio": "x.wav"})], tmp_path))
