"""`mge index`: what a dataset config finds, in text and as data."""

import json

import numpy as np
import pytest
import soundfile as sf


@pytest.fixture
def songs(tmp_path, write_song):
    """A folder of two songs, one of them with too few stems."""
    for name in ("a/bass", "a/drums", "a/other", "b/bass"):
        path = tmp_path / "songs" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_song(path, 8000)
    return tmp_path / "songs"


@pytest.fixture
def config(tmp_path):
    """Write a dataset config of corpora."""

    def write(*corpora, **keys):
        entries = [{"type": "folder"} | corpus for corpus in corpora]
        path = tmp_path / "dataset.json"
        path.write_text(json.dumps({"dataset_type": "mge_triplets", "datasets": entries} | keys))
        return path

    return write


def test_songs_hours_labels_and_what_was_left_out_are_told(run_main, songs, config, tmp_path):
    path = config({"id": "mine", "path": str(songs)})
    result = run_main("index", path, "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == [f"mine  (folder, train)  {songs}", "  1 songs, 0.00 hours, 16000 Hz"]
    assert [line.split() for line in lines[2:6]] == [
        ["label", "stems", "hours"],
        ["bass", "1", "0.00"],
        ["drums", "1", "0.00"],
        ["other", "1", "0.00", "never", "the", "source"],
    ]
    reason = "song with fewer than 2 stems, too few for a triplet"
    assert lines[6:8] == [f"  left out 1: {reason}", f"      {songs / 'b'}"]
    assert lines[-1] == "SLOW []"
    (corpus,) = json.loads((tmp_path / "out.json").read_text())["corpora"]
    assert corpus["songs"] == 1 and corpus["hours"] == 0.5 / 3600
    assert corpus["stems"]["other"] == {"stems": 1, "hours": 0.5 / 3600, "queryable": False}
    assert corpus["sample_rates"] == {"16000": 3}
    left_out = [{"reason": reason, "count": 1, "first": [str(songs / "b")]}]
    assert corpus["left_out"] == left_out


def test_a_folder_is_a_corpus_too(mge, songs):
    code, out, err = mge("index", songs)
    assert (code, err) == (0, "")
    assert out.startswith(f"songs  (folder, train)  {songs}\n  1 songs")


def test_a_corpus_that_cannot_be_used_hides_no_other_and_the_exit_code_is_1(mge, songs, config):
    path = config({"id": "gone", "path": "gone"}, {"id": "mine", "path": str(songs)})
    code, out, err = mge("index", path)
    assert code == 1 and "mine  (folder" in out
    assert err == "problem: datasets: gone: gone: no such folder\n"


@pytest.mark.parametrize(
    ("corpora", "keys", "message"),
    [
        ([], {}, "datasets: expected one corpus or more, found none"),
        ([{"id": "a"}], {}, "datasets[0]: missing key 'path'"),
        ([{"id": "a", "path": "b"}], {"index_cache": 1}, "index_cache: expected a folder or null"),
        (
            [{"id": "a", "path": "p", "weight": 1}, {"id": "b", "path": "p"}],
            {},
            "weight: expected for all or none, missing for b",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_one_sentence(mge, config, corpora, keys, message):
    code, _, err = mge("index", config(*corpora, **keys))
    assert code == 1 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_the_cache_lies_where_the_config_says_or_nowhere(mge, songs, config, tmp_path):
    corpus = {"id": "mine", "path": str(songs)}
    mge("index", config(corpus, index_cache=str(tmp_path / "kept")))
    assert len(list((tmp_path / "kept").iterdir())) == 1
    before = sorted(tmp_path.rglob("*"))
    assert mge("index", config(corpus, index_cache=None))[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_sums_are_compared_if_asked_for(mge, write_song, config, tmp_path):
    for name, frames in (("drums", 8000), ("bass", 8000), ("mixture", 800)):
        path = tmp_path / "hq" / "train" / "song" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_song(path, frames)
    path = config({"id": "hq", "path": str(tmp_path / "hq"), "type": "musdb18_hq"})
    wrong = "noticed 1: song whose stems do not sum to its mixture"
    assert wrong not in mge("index", path)[1]
    code, out, _ = mge("index", path, "--check-sums")
    assert code == 0 and wrong in out


def test_stems_are_listened_to_if_asked_for(mge, config, tmp_path):
    folder = tmp_path / "songs" / "song"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("drums", "bass"):
        sf.write(folder / f"{name}.wav", rng.uniform(-0.1, 0.1, 80_000), 8000)
    path = config({"id": "f", "path": str(tmp_path / "songs"), "type": "folder"})
    wrong = "noticed 2: stem of nothing but white noise"
    assert wrong not in mge("index", path)[1]
    code, out, _ = mge("index", path, "--check-stems")
    assert code == 0 and wrong in out
