"""What SAT's tested versions get wrong for us works with the plugin in."""

from types import SimpleNamespace

import pytest
import torch

from mge_plugin import registry
from mge_plugin import sat as mends


@pytest.fixture(autouse=True)
def mended():
    registry.install()
    mends.install()  # twice is harmless


def test_a_function_is_mended_once_however_often_it_is_asked_for():
    from stable_audio_tools.training.utils import InverseLR

    before = InverseLR.__init__.__wrapped__
    for _ in range(3):
        mends.install()
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
