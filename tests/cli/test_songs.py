"""What songs the arguments name: files, folders and manifests."""

import json
import re
from pathlib import Path

import pytest

from mge_plugin.cli.jobs import find_songs
from mge_plugin.config import ConfigError

PROMPT = ("--prompt", "bass", "--no-gate")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's


@pytest.fixture
def manifest(tmp_path):
    """A function that writes a manifest, a value a line."""

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
    entries = find_songs([tmp_path], tmp_path / "out")
    assert [e.path.relative_to(tmp_path).as_posix() for e in entries] == sorted(audio)
    assert all(e.folder == e.path.parent.relative_to(tmp_path) for e in entries)
    said = "4 hidden, 1 linked folders, 2 not audio"
    assert capsys.readouterr().err == f"{tmp_path}: passed over: {said}\n"


def test_results_in_a_folder_are_no_songs(tmp_path, capsys):
    for name in ("x.wav", "out/x_bass_source.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [e.path for e in find_songs([tmp_path], tmp_path / "out")] == [tmp_path / "x.wav"]
    assert capsys.readouterr().err.endswith("passed over: 1 folder of results\n")
    with pytest.raises(ConfigError, match=r"--out: .* is the songs' own folder"):
        find_songs([tmp_path], tmp_path)


def test_a_folder_without_audio_is_told_with_what_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r": expected audio files, found none$"):
        find_songs([tmp_path], tmp_path / "out")
    for name in ("a.txt", ".wav"):
        (tmp_path / name).touch()
    expected = re.escape(f"{tmp_path}: expected audio files, found none (1 hidden, 1 not audio)")
    with pytest.raises(ConfigError, match=expected):
        find_songs([tmp_path], tmp_path / "out")


def test_a_folders_results_lie_as_its_songs_do(task, made, tmp_path, write_song):
    for name in ("x.wav", "CD 1/x.wav", "CD 1/._x.wav"):
        write_song(tmp_path / "songs" / name, 900)
    code, out, err = task("extract", tmp_path / "songs", *PROMPT)
    assert code == 0, err
    assert list(made()[1]) == ["CD_1/x_bass.json", "x_bass.json"]
    assert "songs: passed over: 1 hidden\n" in err
    assert out.splitlines()[-1] == "2 done, 0 already there, 0 failed"


def test_a_manifest_says_what_is_asked_of_each_song(task, made, tmp_path, write_song, manifest):
    write_song(tmp_path / "songs" / "x.wav", 900)
    path = manifest(
        {"audio": "songs/x.wav"},
        "",
        {"audio": "songs/x.wav", "prompt": "drums", "seed": 7, "negative": "bass"},
        {"audio": "songs/x.wav", "prompt": ["flute", "oboe"], "name": "winds of x"},
    )
    code, _, err = task("extract", path, *PROMPT)
    assert code == 0, err
    audio, infos = made()
    requests = {
        name: [info["request"][key] for key in ("prompts", "seed", "negative")]
        for name, info in infos.items()
    }
    assert requests == {
        "winds_of_x_flute_oboe.json": [["flute", "oboe"], 0, None],
        "x_bass.json": [["bass"], 0, None],
        "x_drums.json": [["drums"], 7, "bass"],
    }
    assert "winds_of_x_flute_oboe_source_2.wav" in audio


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: not valid JSON"),
        ("[" * 100_000, r":2: not valid JSON"),
        ("[1]", r":2: expected a JSON object, found \[1\]"),
        ({"audio": "x.wav", "promt": "a"}, ":2: unknown key 'promt', did you mean 'prompt'?"),
        ({"audio": "x.wav", "seconds": 3}, ":2: unknown key 'seconds'"),
        ({"prompt": "bass"}, ":2: missing key 'audio'"),
        ({"audio": 3}, ":2.audio: expected a text, found 3"),
        ({"audio": "/etc/x.wav"}, ":2: audio: expected a path under the manifest's folder"),
        ({"audio": "C:\\x.wav"}, ":2: audio: expected a path under the manifest's folder"),
        ({"audio": "a/../../x.wav"}, ":2: audio: expected a path under the manifest's folder"),
        ({"audio": "a\\..\\x.wav"}, ":2: audio: expected a path under the manifest's folder"),
        ({"audio": "link/x.wav"}, ":2: audio: link/x.wav is a link that leads out of the folder"),
        ({"audio": "x.wav", "prompt": 3}, ":2: prompt: expected a text or a list of them, found 3"),
        ({"audio": "x.wav", "prompt": []}, ":2: prompt: expected a text or a list of them"),
        ({"audio": "x.wav", "prompt": ["a", 1]}, ":2: prompt: expected a text or a list"),
        ({"audio": "x.wav", "prompt": [" "]}, ":2: prompt: expected words such as"),
        ({"audio": "x.wav", "seed": -1}, ":2: seed: expected 0 to"),
        ({"audio": "x.wav", "seed": 1.5}, ":2.seed: expected a whole number, found 1.5"),
    ],
    ids=str,
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path_factory, manifest, tmp_path, line, message):
    (tmp_path / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    path = manifest({"audio": "fine.wav"}, line)
    with pytest.raises(ConfigError, match=re.escape(str(path)) + message):
        find_songs([path], tmp_path / "out")


def test_a_manifest_that_cannot_be_or_says_nothing_is_named(tmp_path, manifest):
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\xff")
    for path, message in (
        (manifest("", " "), "list.jsonl: expected a JSON object a line, found none"),
        (tmp_path / "absent.jsonl", "absent.jsonl: cannot be read"),
        (tmp_path / "latin.jsonl", "latin.jsonl: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_songs([path], Path("out"))


def test_prompts_that_a_task_cannot_take_are_named_with_their_line(task, tmp_path, manifest):
    path = manifest({"audio": "x.wav", "prompt": ["a", "b"]})
    code, _, err = task("accompany", path)
    assert (code, err) == (1, f"error: {path}:1: accompany: expected one prompt, found 2\n")
    code, _, err = task("extract", manifest({"audio": "x.wav"}))
    assert (code, err[:6]) == (1, "error:")
    assert ":1: extract: expected --prompt or --example, found none" in err


def test_lines_of_music_to_make_have_no_song(task, made, manifest, tmp_path):
    path = manifest(
        {"prompt": "a waltz", "seconds": 0.05}, {"seed": 4, "name": "second", "seconds": 0.1}
    )
    code, _, err = task("generate", "--manifest", path, "--seconds", 1, "--prompt", "rock")
    assert code == 0, err
    audio, infos = made()
    assert {name: track.shape[0] for name, track in audio.items()} == {
        "a_waltz_seed0_mixture.wav": 800,
        "second_seed4_mixture.wav": 1600,
    }
    assert infos["second_seed4.json"]["request"]["prompts"] == ["rock"]
    code, _, err = task("compose", "--manifest", manifest({"audio": "x.wav"}), "--prompt", "x")
    assert (code, err[:6]) == (1, "error:")
    assert ":1: unknown key 'audio'" in err
