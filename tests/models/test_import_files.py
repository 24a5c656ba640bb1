"""What `mge import` writes: whole, exact, in the file's own precision, readable by others."""

import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stable_audio_tools.models.utils import load_ckpt_state_dict
from torch.testing import assert_close

from mge_plugin.models.checkpoints import CheckpointError, read_checkpoint, write_weights
from mge_plugin.models.published import export_official, import_checkpoint
from tests.models.published import autoencoder_weights, saved, under, whole_weights

MAPS = Path("/proc/self/maps")  # which file a piece of memory comes from


@pytest.fixture
def published(tmp_path):
    return saved(tmp_path / "published.ckpt", whole_weights())


@pytest.fixture
def ours(published):
    return import_checkpoint(published).weights


def exported(path, tmp_path):
    """The state_dict of what `path` is exported to; there is nothing beside it."""
    out = tmp_path / "back.ckpt"
    assert export_official(path, out) > 0
    content = torch.load(out, weights_only=True)
    assert content.keys() == {"state_dict"}
    return content["state_dict"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back_is_the_same(tmp_path, dtype):
    weights = {key: value.to(dtype) for key, value in whole_weights().items()}
    imported = import_checkpoint(saved(tmp_path / "published.ckpt", weights)).weights
    back = exported(write_weights(imported, tmp_path / "ours.safetensors"), tmp_path)
    assert_close(back, weights, atol=0, rtol=0)


def test_a_training_checkpoint_is_exported_averaged_without_what_is_not_the_model(ours, tmp_path):
    network = {k.removeprefix("model."): v for k, v in ours.items() if k.startswith("model.")}
    trained = {key: value + 1 for key, value in ours.items() if key.startswith("model.")}
    content = under("diffusion.", ours | trained) | under("diffusion_ema.ema_model.", network)
    content |= {"losses.weight": torch.ones(1), "diffusion.conditioner.x": torch.ones(1)}
    path = saved(tmp_path / "training.ckpt", content, optimizer_states=[{"state": {}}])
    assert_close(exported(path, tmp_path), whole_weights(), atol=0, rtol=0)


def test_an_autoencoder_is_exported_as_the_published_one_is(tmp_path):
    save_file(autoencoder_weights(), tmp_path / "vae.safetensors")
    back = exported(tmp_path / "vae.safetensors", tmp_path)
    assert_close(back, autoencoder_weights(), atol=0, rtol=0)
    assert_close(load_ckpt_state_dict(str(tmp_path / "back.ckpt")), back)


def test_only_our_models_go_the_other_way(published, tmp_path):
    resnet = saved(tmp_path / "resnet.ckpt", {"layer1.weight": torch.ones(1)})
    for path, what in ((published, "the published imp"), (resnet, "found tensors layer1.weight")):
        with pytest.raises(CheckpointError, match=f"not a model of this plugin, but {what}"):
            export_official(path, tmp_path / "back.ckpt")
    assert not (tmp_path / "back.ckpt").exists()


def test_tensors_that_share_memory_come_apart(tmp_path):
    base = torch.arange(8.0)
    weights = {"a": base, "tied": base, "part": base[2:], "turned": base.reshape(2, 4).T}
    path = write_weights(weights, tmp_path / "w.safetensors")
    assert_close(load_file(path), weights, atol=0, rtol=0)


def test_a_view_is_exported_without_the_memory_around_it(ours, tmp_path):
    big = torch.zeros(10_000_000)
    key = next(iter(ours))
    view = big[: ours[key].numel()].view_as(ours[key])
    path = saved(tmp_path / "ours.ckpt", ours | {key: view})
    assert path.stat().st_size > big.nbytes
    exported(path, tmp_path)
    assert (tmp_path / "back.ckpt").stat().st_size < big.nbytes / 10


def test_the_metadata_says_where_it_comes_from(tmp_path):
    path = write_weights({"a": torch.ones(1)}, tmp_path / "w.safetensors", origin="published.ckpt")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "origin": "published.ckpt"}


def test_the_files_are_readable_as_the_umask_says(ours, tmp_path):
    before = os.umask(0o027)
    try:
        path = write_weights(ours, tmp_path / "w.safetensors")
        export_official(path, tmp_path / "back.ckpt")
    finally:
        os.umask(before)
    for written in (path, tmp_path / "back.ckpt"):
        assert stat.S_IMODE(written.stat().st_mode) == 0o640


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    (tmp_path / "w.safetensors").write_text("before")
    with pytest.raises(AttributeError):
        write_weights({"a": torch.ones(1), "b": None}, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").read_text() == "before"


def test_a_full_disk_is_told_and_nothing_is_left(ours, tmp_path):
    """A limit on the size of files stands in for the disk."""
    path = write_weights(ours, tmp_path / "ours.safetensors")
    before, limit = sorted(tmp_path.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"full.safetensors: not written, .*is the disk full\?"):
            write_weights(ours, tmp_path / "full.safetensors")
        with pytest.raises(OSError, match=r"full.ckpt: not written, .*is the disk full\?"):
            export_official(path, tmp_path / "full.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not MAPS.exists(), reason="Linux tells where memory comes from")
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_tensors_are_mapped_not_read(tmp_path, suffix):
    path = tmp_path / f"big{suffix}"
    tensors = {"a": torch.ones(1_000_000)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    weights = read_checkpoint(path)
    address = weights["a"].data_ptr()
    spans = [line.split()[0] for line in MAPS.read_text().splitlines() if str(path) in line]
    ends = [[int(end, 16) for end in span.split("-")] for span in spans]
    assert any(start <= address < stop for start, stop in ends)
