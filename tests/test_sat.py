"""Workarounds: what SAT and Lightning get wrong for us works with the plugin registered."""

import os
import resource
import time
from types import SimpleNamespace

import pytest
import torch

from mge_plugin import registry, sat
from mge_plugin.models.checkpoints import CheckpointError


@pytest.fixture(autouse=True)
def registered():
    registry.install()
    sat.install()  # twice is harmless


def test_a_function_is_wrapped_once():
    from stable_audio_tools.training.utils import InverseLR

    before = InverseLR.__init__.__wrapped__
    for _ in range(3):
        sat.install()
    assert InverseLR.__init__.__wrapped__ is before
    assert not hasattr(before, "_self_wrapper")


def test_the_inverse_schedule_follows_its_formula():
    from stable_audio_tools.training.utils import create_scheduler_from_config

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    options = {"inv_gamma": 10, "power": 0.5, "warmup": 0.9}
    scheduler = create_scheduler_from_config({"type": "InverseLR", "config": options}, optimizer)
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    expected = [2.0 * (1 - 0.9 ** (i + 1)) * (1 + i / 10) ** -0.5 for i in range(5)]
    assert rates == pytest.approx(expected)


def test_an_invalid_warmup_is_refused_as_before():
    from stable_audio_tools.training.utils import InverseLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(ValueError, match="warmup"):
        InverseLR(optimizer, warmup=1.0)


def test_the_update_ratio_needs_no_gpu():
    module = pytest.importorskip("stable_audio_tools.training.autoencoders")
    if not hasattr(module, "calc_update_to_weight_ratio"):
        pytest.skip("SAT 0.0.19 has no update ratio")
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(3.0), layer.bias.fill_(4.0)
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.6]]), torch.tensor([0.8])
    assert module.calc_update_to_weight_ratio(layer, 0.5) == pytest.approx(0.5 * 1.0 / 5.0)


@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_demo_chirps_fit_any_rate(sample_rate):
    module = pytest.importorskip("stable_audio_tools.training.autoencoders")
    if not hasattr(module, "append_random_linear_chirps"):
        pytest.skip("SAT 0.0.19 has no chirps")
    batch = torch.zeros(2, 1, 1000)
    longer = module.append_random_linear_chirps(batch, sample_rate, n_chirps=1)
    assert longer.shape[0] == 3
    assert longer.isfinite().all()


@pytest.mark.parametrize("averaged", [False, True])
def test_an_autoencoder_is_exported_to_safetensors(tmp_path, averaged):
    from safetensors.torch import load_file
    from stable_audio_tools.training.autoencoders import AutoencoderTrainingWrapper

    model, ema = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    wrapper = SimpleNamespace(autoencoder=model, autoencoder_ema=None)
    if averaged:
        wrapper.autoencoder_ema = SimpleNamespace(ema_model=ema)
    path = tmp_path / "vae.safetensors"
    AutoencoderTrainingWrapper.export_model(wrapper, str(path), use_safetensors=True)
    expected = (ema if averaged else model).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in load_file(path).items())


class Unwritable:
    """Pickling it fails."""

    def __reduce__(self):
        raise OSError("no space left on device")


def test_a_lightning_checkpoint_has_its_name_only_when_it_is_whole(tmp_path):
    from lightning_fabric.plugins.io.torch_io import _atomic_save  # Lightning's own copy

    path = tmp_path / "a.ckpt"
    left = path.with_name(".left.tmp")  # by a run that was killed two hours ago
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 7200,) * 2)
    _atomic_save({"a": torch.ones(2)}, path)
    assert not left.exists()
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        _atomic_save({"a": torch.ones(3), "b": Unwritable()}, path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))  # a full disk
    try:
        with pytest.raises(OSError, match=str(path)):
            _atomic_save({"a": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))


def test_resuming_from_a_folder_takes_the_newest_whole_checkpoint(tmp_path):
    for age, name in enumerate(("cut.ckpt", "newest.ckpt", "old.ckpt")):
        path = tmp_path / name
        torch.save({"a": torch.ones(1000)}, path)
        os.utime(path, (1000 - age, 1000 - age))
    content = (tmp_path / "cut.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    os.utime(tmp_path / "cut.ckpt", (2000, 2000))
    assert sat._newest_checkpoint(tmp_path) == tmp_path / "newest.ckpt"
    with pytest.raises(FileNotFoundError):
        sat._newest_checkpoint(tmp_path / "absent")


def test_sats_loader_explains_a_file_that_it_cannot_read(tmp_path):
    from stable_audio_tools.models.utils import load_ckpt_state_dict

    path = tmp_path / "a.ckpt"
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match=str(path)):
        load_ckpt_state_dict(str(path))


def test_sats_loader_removes_the_prefix_of_compiled_modules(tmp_path):
    from stable_audio_tools.models.utils import load_ckpt_state_dict

    weights = {"_orig_mod.model._orig_mod.weight": torch.ones(1)}
    torch.save({"state_dict": weights}, tmp_path / "a.ckpt")
    assert list(load_ckpt_state_dict(str(tmp_path / "a.ckpt"))) == ["model.weight"]


def test_reconstructions_stay_on_disk_without_a_logger(tmp_path, monkeypatch):
    module = pytest.importorskip("stable_audio_tools.training.autoencoders")
    (tmp_path / "recon.wav").write_bytes(b"audio")
    monkeypatch.setattr(sat, "_recon_folder", tmp_path / "run")
    module.log_audio(None, "recon", str(tmp_path / "recon.wav"), 16000)
    assert (tmp_path / "run" / "demos" / "recon.wav").read_bytes() == b"audio"
