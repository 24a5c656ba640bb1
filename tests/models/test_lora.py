"""LoRA as SAT 0.0.20 does it: its config fine-tunes our network, its interface loads the result."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from torch.nn.utils.parametrize import remove_parametrizations
from torch.testing import assert_close

from mge_plugin import registry
from mge_plugin.models.dit import _TrackLinear

if not find_spec("stable_audio_tools.models.lora"):
    pytest.skip("LoRA came with stable-audio-tools 0.0.20", allow_module_level=True)

from stable_audio_tools.interface.gradio import load_model
from stable_audio_tools.models.lora import (
    LoRASafetensorsCheckpoint,
    get_lora_layers,
    name_is_lora,
    set_lora_strength,
)

CONFIG = Path(__file__).parents[2] / "model_configs" / "mge_dit_tiny.json"


@pytest.fixture
def model_config():
    registry.install()
    config = json.loads(CONFIG.read_text())
    config["sample_size"] = 8192
    config["model"]["diffusion"]["config"] |= {"embed_dim": 96, "depth": 2, "num_heads": 3}
    config["training"] |= {"pre_encoded": True, "lora_config": {"rank": 4, "alpha": 8}}
    return config


@pytest.fixture
def base(model_config, tmp_path):
    """A trained model's file; no layer is left at zeros."""
    torch.manual_seed(0)
    model = create_model_from_config(model_config)
    for parameter in model.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "base.ckpt")
    return model


def predict(model):
    """The network's output for fixed input."""
    generator = torch.Generator().manual_seed(1)
    x, embeddings = (torch.randn(2, *s, generator=generator) for s in ((96, 32), (3, 64)))
    with torch.no_grad():
        return model.model.eval()(x, torch.full((2,), 0.5), global_cond=embeddings)


def merge(network):
    """Put the additions into the weights; SAT's `merge_lora` changes a dictionary it iterates."""
    for name, _ in get_lora_layers(network):
        remove_parametrizations(network.get_submodule(name), "weight", leave_parametrized=True)


def train(model_config, model, tmp_path):
    """Three steps on latents; checkpoints as Lightning and as SAT's LoRA callback write them."""
    wrapper = create_training_wrapper_from_config(model_config, model)
    latents = torch.randn(6, 96, 32, generator=torch.Generator().manual_seed(2))
    batch = [{"prompt": {"source": "The sound of the bass"}}] * 2
    loader = torch.utils.data.DataLoader(
        [(pair, batch) for pair in latents.split(2)], batch_size=None
    )
    folder = {"dirpath": str(tmp_path), "every_n_train_steps": 3, "save_top_k": -1}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        callbacks=[
            pl.callbacks.ModelCheckpoint(filename="lightning", **folder),
            LoRASafetensorsCheckpoint(filename="lora", **folder),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(wrapper, loader)
    return wrapper


def test_only_the_additions_are_trained(model_config, base, tmp_path):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    untrained = predict(base)
    wrapper = train(model_config, base, tmp_path)
    trained = {name for name, p in wrapper.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("diffusion.model.")} == {
        f"diffusion.model.{name}" for name, _ in base.model.named_parameters() if name_is_lora(name)
    }
    for name, value in base.state_dict().items():
        original = name.replace("parametrizations.weight.original", "weight")
        if original in before:
            assert torch.equal(value, before[original]), name
    assert (predict(base) - untrained).abs().max() > 1e-3
    assert wrapper.diffusion_ema is None


def test_every_linear_layer_of_the_network_is_adapted(model_config, base):
    wrapper = create_training_wrapper_from_config(model_config, base)
    adapted = {name for name, _ in get_lora_layers(wrapper.diffusion.model)}
    layers = {
        name
        for name, module in base.model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d))
        and ".parametrizations" not in name
    }
    assert adapted == layers
    per_track = [
        name for name in adapted if isinstance(base.model.get_submodule(name), _TrackLinear)
    ]
    assert len(per_track) == 2 + 2 + 2  # timestep, embedding, one a block


def test_include_chooses_layers(model_config, base):
    model_config["training"]["lora_config"]["include"] = ["to_modulations"]
    wrapper = create_training_wrapper_from_config(model_config, base)
    names = [name for name, _ in get_lora_layers(wrapper.diffusion.model)]
    assert len(names) == 2
    assert all("to_modulations" in name for name in names)


@pytest.mark.parametrize(
    ("file", "tolerance"), [("lightning.ckpt", 1e-5), ("lora.safetensors", 5e-3)]
)
def test_sats_interface_loads_the_result(model_config, base, tmp_path, file, tolerance):
    """The safetensors file of SAT's callback holds half precision."""
    untrained = predict(base)
    wrapper = train(model_config, base, tmp_path)
    expected = predict(wrapper.diffusion)
    opened, _ = load_model(
        model_config,
        str(tmp_path / "base.ckpt"),
        device="cpu",
        lora_ckpt_paths=[str(tmp_path / file)],
    )
    assert opened.lora_names == [Path(file).stem]
    assert_close(predict(opened), expected, atol=tolerance, rtol=0)
    set_lora_strength(opened.model, 0.0)
    assert_close(predict(opened), untrained, atol=1e-5, rtol=0)
    set_lora_strength(opened.model, 1.0)
    merge(opened.model)
    assert not get_lora_layers(opened.model)
    assert_close(predict(opened), expected, atol=tolerance, rtol=0)


def test_it_opens_halved(model_config, base, tmp_path):
    wrapper = train(model_config, base, tmp_path)
    expected = predict(wrapper.diffusion)
    opened, _ = load_model(
        model_config,
        str(tmp_path / "base.ckpt"),
        device="cpu",
        model_half=True,
        lora_ckpt_paths=[str(tmp_path / "lightning.ckpt")],
    )
    assert_close(predict(opened), expected, atol=2e-2, rtol=0)


def test_a_run_goes_on_from_its_additions(model_config, base, tmp_path):
    expected = predict(train(model_config, base, tmp_path).diffusion)
    model = create_model_from_config(model_config)
    weights = torch.load(tmp_path / "base.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict(weights)
    model_config["training"]["lora_ckpt_path"] = str(tmp_path / "lightning.ckpt")
    wrapper = create_training_wrapper_from_config(model_config, model)
    assert_close(predict(wrapper.diffusion), expected, atol=1e-5, rtol=0)
