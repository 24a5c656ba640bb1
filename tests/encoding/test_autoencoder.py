"""The autoencoder's weights from every file they may be in, and the fingerprint."""

import pytest
import torch
from safetensors.torch import save_file

from mge_plugin.config import ConfigError
from mge_plugin.models.autoencoder import autoencoder_section, fingerprint, open_autoencoder
from mge_plugin.models.checkpoints import CheckpointError
from tests.encoding.tiny import model_config, vae_config


def told(config, ckpt):
    return fingerprint(autoencoder_section(config), open_autoencoder(config, ckpt).model)


def test_the_same_weights_have_one_fingerprint_in_whatever_file(new_model, ckpt, tmp_path):
    vae = new_model(vae_config())
    state = vae.state_dict()
    save_file(state, tmp_path / "vae.safetensors")
    model = new_model(model_config(), seed=5)
    model.pretransform.model.load_state_dict(state)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.ckpt")
    other = new_model(vae_config(), seed=6).state_dict()
    training = {f"autoencoder.{k}": v for k, v in other.items()}
    training |= {f"autoencoder_ema.ema_model.{k}": v for k, v in state.items()}
    torch.save({"state_dict": training}, tmp_path / "training.ckpt")
    files = ["vae.safetensors", "model.ckpt", "training.ckpt"]
    prints = {told(vae_config(), path) for path in (ckpt, *(tmp_path / name for name in files))}
    assert prints == {told(model_config(), tmp_path / "model.ckpt")}
    assert open_autoencoder(model_config(), ckpt).scale == 1.0  # latents are stored unscaled


def test_other_weights_and_other_configs_have_another(vae_ckpt, ckpt):
    first = told(vae_config(), ckpt)
    assert told(vae_config(), vae_ckpt(1)) != first
    config = vae_config()
    config["model"]["pretransform"]["config"]["enable_grad"] = True
    assert told(config, ckpt) != first


def test_weights_that_do_not_fit_are_named(new_model, tmp_path):
    state = new_model(vae_config()).state_dict()
    name = next(iter(state))
    del state[name]
    torch.save(state, tmp_path / "cut.ckpt")
    with pytest.raises(CheckpointError, match=f"does not fit .*: 1 missing .{name}"):
        open_autoencoder(vae_config(), tmp_path / "cut.ckpt")


def test_a_config_without_an_autoencoder_says_what_it_is(ckpt):
    config = model_config()
    config["model"]["pretransform"]["type"] = "wavelet"
    with pytest.raises(ConfigError, match=r"no autoencoder.*'diffusion_cond_inpaint'.*'wavelet'"):
        open_autoencoder(config, ckpt)
