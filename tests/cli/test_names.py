"""Names of results: safe on any file system, and never the same for two results."""

from pathlib import Path
from unicodedata import normalize

import pytest

from mge_plugin.cli.jobs import Entry, NewLine, new_jobs, song_jobs
from mge_plugin.cli.tasks import Asked
from mge_plugin.files import distinct_paths, output_name

OUT = Path("out")


def bases(entries, *texts):
    jobs = song_jobs(Asked("extract", texts), entries, 0, OUT)
    return [job.base.relative_to(OUT).as_posix() for job in jobs]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("song_the sound of the bass", "song_the_sound_of_the_bass"),
        ("a/b: c?", "a_b_c"),
        ("../..", "untitled"),
        ("con", "con_"),
        ("NUL", "NUL_"),
        ("com1", "com1_"),
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
    names = {output_name(letter * 200 + end, "_seed3") for end in ("", "a", "b")}
    assert len(names) == 3
    for name in names:
        assert len(name.encode()) <= 100
        assert name.startswith(letter * 20)
        assert name.endswith("_seed3")


@pytest.mark.parametrize("pair", [("x", "x"), ("A", "a"), ("é", normalize("NFD", "é"))])
def test_names_that_a_file_system_may_take_for_one_get_a_hash(pair):
    paths = [Path("f", name) for name in (*pair, "other")]
    first, second, other = distinct_paths(paths, ["1", "2", "3"])
    assert first.name.casefold() != second.name.casefold()
    assert (first.parent, other) == (Path("f"), Path("f", "other"))
    assert [first, second] == distinct_paths(paths[:2], ["1", "2"])


def test_a_hash_that_is_a_name_already_is_made_another():
    tagged = distinct_paths([Path("x"), Path("x")], ["1", "2"])
    names = distinct_paths([Path("x"), Path("x"), tagged[0]], ["1", "2", "3"])
    assert len(set(names)) == 3


def test_a_result_is_named_by_song_and_prompt():
    assert bases([Entry(Path("a/song.wav"))], "the bass") == ["song_the_bass"]
    assert bases([Entry(Path("song.wav"))], "bass", "drums") == ["song_bass_drums"]
    assert bases([Entry(Path("x/y.wav"), Path("CD 1/con"))], "bass") == ["CD_1/con_/y_bass"]


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(Path("a/x.wav")), Entry(Path("b/x.wav"))],
        [Entry(Path("A.wav")), Entry(Path("a.wav"))],
        [Entry(Path("x.wav")), Entry(Path("x.flac"))],
        [Entry(Path("1/x.wav"), Path("a b")), Entry(Path("2/x.wav"), Path("a_b"))],
        [
            Entry(Path("a.wav"), line=NewLine(prompt="b_c")),
            Entry(Path("a_b.wav"), line=NewLine(prompt="c")),
        ],
        [
            Entry(Path("a.wav"), line=NewLine(prompt="bass!")),
            Entry(Path("a.wav"), line=NewLine(prompt="bass?")),
        ],
        [
            Entry(Path("a.wav"), line=NewLine(prompt=["b", "c"])),
            Entry(Path("a.wav"), line=NewLine(prompt="b c")),
        ],
        [Entry(Path("a.wav"), line=NewLine(seed=seed)) for seed in (1, 2)],
        [Entry(Path(f"{name}.wav"), line=NewLine(name="x")) for name in "ab"],
    ],
    ids=str,
)
def test_no_two_results_have_one_name(entries):
    names = bases(entries, "bass")
    assert len({name.casefold() for name in names}) == 2
    assert names == bases(entries[::-1], "bass")[::-1]  # whatever the order


def test_what_is_asked_twice_is_made_once(capsys):
    assert bases([Entry(Path("x.wav")), Entry(Path("./x.wav"))], "bass") == ["x_bass"]
    assert capsys.readouterr().err == "asked for more than once, made once: 1\n"


def test_results_of_no_song_are_named_by_prompt_and_seed():
    jobs = new_jobs(Asked("compose", ("bass", "drums")), None, None, 5, 2, OUT)
    assert [job.base.name for job in jobs] == ["bass_drums_seed5", "bass_drums_seed6"]
    assert [job.seed for job in jobs] == [5, 6]
    for others, name in (((), "unconditional"), ((("source", "flute"),), "flute")):
        (job,) = new_jobs(Asked("generate", others=others), None, None, 0, 1, OUT)
        assert job.base.name == f"{name}_seed0"
