"""All songs: ranks, resuming after a kill, two autoencoders, broken files."""

import json
import os
import signal
import time

import numpy as np
import pytest
import soundfile as sf
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.latents.encode import Ranks, Settings
from mge_plugin.data.latents.store import Store
from tests.encoding.tiny import RATE, vae_config
from tests.processes import run_mge, start


def files(store):
    """Every file but the index, by its name, with its bytes."""
    names = sorted(p.relative_to(store.root) for p in store.root.rglob("*") if p.is_file())
    return {str(n): (store.root / n).read_bytes() for n in names if n.name != "index.json"}


def test_a_second_run_encodes_nothing(three, run):
    store, first = run(three)
    before = files(store)
    stamps = {path: path.stat().st_mtime_ns for path in store.songs()}
    _, second = run(three)
    assert (first.encoded, first.present) == (3, 0)
    assert (second.encoded, second.present) == (0, 3)
    assert files(store) == before
    assert {path: path.stat().st_mtime_ns for path in store.songs()} == stamps


@pytest.mark.parametrize("world", [2, 5])
def test_any_number_of_ranks_encodes_each_song_once_and_the_same(three, run, world):
    alone, _ = run(three)
    shares = [run(three, out="ranks", ranks=Ranks(r, world))[1].encoded for r in range(world)]
    assert sum(shares) == 3 and max(shares) - min(shares) <= 1
    assert files(Store(alone.root.with_name("ranks"))) == files(alone)


def test_ranks_are_those_of_torchrun():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert Ranks.of(environment) == Ranks(5, 8, 1)
    assert Ranks.of({}) == Ranks(0, 1, 0)


def test_what_is_cut_or_made_of_other_files_is_encoded_anew(three, run):
    store, _ = run(three)
    whole = files(store)
    duo, b, _ = store.songs()
    duo.write_bytes(duo.read_bytes()[:1000])
    _, report = run(three)
    assert (report.encoded, report.renewed, report.present) == (1, 1, 2)
    assert files(store) == whole
    three.configure(label_map={"piano": "keys"})
    _, report = run(three)
    assert (report.encoded, report.renewed, report.present) == (2, 2, 1)
    assert [stem.label for stem in store.songs()[b].stems] == ["bass", "drums", "keys"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": 1}, "has latents made in another way: autoencoder is '"),
        ({"dtype": "float16"}, "dtype is 'float32' and 'float16'"),
        ({"posterior": "mean"}, "posterior is 'full' and 'mean'"),
    ],
)
def test_latents_of_two_kinds_are_not_mixed(three, run, vae_ckpt, change, message):
    store, _ = run(three)
    before = files(store)
    if "weights" in change:
        change = {"weights": vae_ckpt(1)}
    with pytest.raises(ConfigError, match=message):
        run(three, **change)
    assert files(store) == before


def test_a_broken_song_is_left_out_with_its_reason(three, run):
    path = three.root / "train" / "b" / "bass.wav"
    sf.write(path, np.full(4097, np.nan, dtype=np.float32), RATE, "FLOAT")
    store, report = run(three)
    assert report.encoded == 2 and report.songs == 3
    (reason,) = report.left_out.values()
    assert list(report.left_out) == ["songs/b"]
    assert str(path) in reason and "samples are NaN" in reason
    assert [song.id for song in store.songs().values()] == ["a duo", "c"]


def test_latents_that_are_no_numbers_are_left_out(three, run, new_model, tmp_path):
    state = new_model(vae_config()).state_dict()
    bias = next(name for name in reversed(state) if name.startswith("encoder.") and "bias" in name)
    state[bias][:] = 1e6
    torch.save(state, tmp_path / "large.ckpt")
    _, report = run(three, weights=tmp_path / "large.ckpt", dtype="float16")
    assert len(report.left_out) == 3
    assert "its latents are NaN or too large for float16" in report.left_out["songs/b"]


def test_settings_that_make_no_sense_are_all_told():
    with pytest.raises(ConfigError, match=r"batch_size: .*found 0; threads.*chunk: .*found -1"):
        Settings(batch_size=0, threads=0, chunk=-1)


def start_command(corpus, ckpt, config, out):
    """A process that encodes as `run` does."""
    config.write_text(json.dumps(vae_config()))
    line = ["encode", "--model-config", config, "--ckpt", ckpt, "--out", out]
    line += ["--dataset-config", corpus.config, "--dtype", "float32", "--chunk", "0.4"]
    line += ["--device", "cpu"]
    return start(run_mge, *map(str, line), output=config.with_suffix(".log"))


def test_a_killed_run_goes_on_and_leaves_nothing_behind(corpus, run, ckpt, tmp_path):
    for number in range(12):
        corpus.song(f"song {number}", 20_000 + number)
    whole, _ = run(corpus, "whole")
    cut = Store(tmp_path / "cut")
    process = start_command(corpus, ckpt, tmp_path / "vae.json", cut.root)
    while len(list(cut.root.rglob("*.safetensors"))) < 3 and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = len(list(cut.root.rglob("*.safetensors")))
    assert 3 <= done < 12
    halves = [cut.root / ".half.tmp", cut.root / "songs" / "train" / ".half.tmp"]
    for half in [*halves, *cut.root.rglob(".*.tmp")]:
        half.write_bytes(b"half")  # as a kill while writing leaves, an hour ago
        os.utime(half, (0, 0))
    _, report = run(corpus, "cut")
    assert (report.encoded, report.present) == (12 - done, done)
    assert files(cut) == files(whole)
