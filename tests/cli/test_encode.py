"""`mge encode` as it is typed: what it says, and with which exit code."""

import json

import numpy as np
import pytest
import soundfile as sf

RATE = 16_000


@pytest.fixture
def songs(tmp_path):
    """Two songs of two stems, half a second long."""
    for name in ("one", "two"):
        folder = tmp_path / "songs" / "train" / name
        folder.mkdir(parents=True)
        for number, label in enumerate(("bass", "drums")):
            audio = 0.1 * np.random.default_rng(number).standard_normal(8000)
            sf.write(folder / f"{label}.wav", audio.astype(np.float32), RATE, "FLOAT")
    return tmp_path / "songs"


@pytest.fixture
def encode(mge, tiny, songs, tmp_path):
    """Run the command on the songs: (exit code, stdout, stderr)."""
    entry = {"id": "songs", "type": "folder", "path": str(songs)}
    config = {"dataset_type": "mge_triplets", "datasets": [entry], "index_cache": None}
    (tmp_path / "songs.json").write_text(json.dumps(config))
    names = ["--dataset-config", tmp_path / "songs.json", "--out", tmp_path / "latents"]

    def run(*options):
        return mge("encode", *tiny, *names, "--device", "cpu", *options)

    return run


def test_songs_are_encoded_and_a_second_time_they_are_there(encode, tmp_path):
    code, said, _ = encode()
    assert code == 0
    assert "2 songs encoded, 0 of 2 songs were there already, 0 left out" in said
    code, said, _ = encode("--shards", "1")
    assert code == 0
    assert "0 songs encoded, 2 of 2 songs were there already" in said
    assert f"Wrote 1 shards to {tmp_path / 'latents' / 'shards'}" in said
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("latents/*/**/*.*"))
    expected = [
        "shards/index.json",
        "shards/train-000000.tar",
        *(f"songs/train/{n}.safetensors" for n in ("one", "two")),
    ]
    assert found == [f"latents/{name}" for name in expected]


def test_each_rank_tells_of_its_own_songs(encode, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        code, said, _ = encode()
        assert code == 0 and f"rank {rank} of 2: 1 songs encoded" in said
    code, _, said = encode("--shards", "1")
    assert code == 1 and "run the same command once more without torchrun" in said


def test_what_cannot_be_read_is_told_and_only_fails_if_nothing_is_left(encode, songs, tmp_path):
    broken = np.full(8000, np.nan, dtype=np.float32)
    sf.write(songs / "train" / "one" / "bass.wav", broken, RATE, "FLOAT")
    code, said, complaint = encode()
    assert code == 0 and "1 songs encoded" in said and "1 left out" in said
    assert "left out: songs/one: " in complaint and "samples are NaN" in complaint
    (tmp_path / "latents" / "songs" / "train" / "two.safetensors").unlink()
    sf.write(songs / "train" / "two" / "bass.wav", broken, RATE, "FLOAT")
    code, said, complaint = encode()
    assert code == 1 and "0 songs encoded, 0 of 2" in said and "left out: songs/two" in complaint


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dtype", "float8"], "mge encode.dtype: unknown value 'float8', did you mean 'float32'"),
        (["--posterior", "both"], "mge encode.posterior: unknown value 'both'"),
        (["--batch-size", "0"], "batch_size: expected more than 0, found 0"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(encode, options, message):
    code, _, complaint = encode(*options)
    assert code == 1 and message in complaint and "Traceback" not in complaint


def test_latents_of_another_model_are_refused(encode, mge, tiny, tmp_path):
    encode()
    code, _, complaint = encode("--dtype", "float32")
    assert code == 1
    assert "latents made in another way: dtype is 'float16' and 'float32'" in complaint
