"""Sizes read from tensors, and tensors of which no model can be made."""

import pytest
import torch

from mge_plugin.models.checkpoints import CheckpointError
from mge_plugin.models.published import Unseen, import_checkpoint
from tests.models.published import autoencoder_weights, saved, whole_weights

LAST_BIAS = "model_dit.transformer.layers.1.ff.ff.2.bias"
EMBED = "model_dit.transformer.project_in.weight"


def test_a_conditioning_of_claps_width_is_claps(tmp_path):
    weights = whole_weights()
    weights["model_dit.to_global_embed.1.weight"] = torch.zeros(3 * 512, 512, 1)
    weights["model_dit.to_global_embed.3.weight"] = torch.zeros(96, 512, 1)
    path = saved(tmp_path / "wide.ckpt", weights)
    config = import_checkpoint(path, Unseen(clap_ckpt="a.pt", clap_tokenizer="b")).config
    (entry,) = config["model"]["conditioning"]["configs"]
    assert config["model"]["conditioning"]["cond_dim"] == 512
    assert entry["type"] == "mge_clap"
    assert entry["config"] == {"ckpt_path": "a.pt", "tokenizer_path": "b"}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({LAST_BIAS: None}, "1 missing (model.model.transformer.layers.1.ff.ff.2.bias)"),
        ({LAST_BIAS: torch.ones(3)}, "layers.1.ff.ff.2.bias (3,) instead of (96,))"),
        ({"model_dit.more": torch.ones(3)}, "1 unexpected (model.model.more)"),
        ({EMBED: None}, "no model.model.transformer.project_in.weight"),
        ({EMBED: torch.ones(96)}, "tensors of another network"),
        ({EMBED: torch.ones(100, 24)}, "no model has such sizes"),
        ({"pretransform.model.encoder.layers.0.bias": None}, "encoder.layers.0.bias)"),
        ({"pretransform.model.encoder.layers.0.weight_v": None}, "no encoder.layers.0.weight_v"),
    ],
)
def test_a_model_that_does_not_fit_is_not_imported(tmp_path, changes, wrong):
    weights = whole_weights() | changes
    weights = {key: value for key, value in weights.items() if value is not None}
    path = saved(tmp_path / "other.ckpt", weights)
    with pytest.raises(CheckpointError) as raised:
        import_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert wrong in str(raised.value)


def test_an_autoencoder_without_weight_norm_or_a_half_is_told(tmp_path):
    weights = autoencoder_weights()
    without = {k.replace("weight_v", "weight"): v for k, v in weights.items() if "_g" not in k}
    with pytest.raises(CheckpointError, match="without weight norm, which was removed"):
        import_checkpoint(saved(tmp_path / "a.ckpt", without))
    encoder = {key: value for key, value in weights.items() if key.startswith("encoder.")}
    with pytest.raises(CheckpointError, match="half an autoencoder: expected an encoder and a dec"):
        import_checkpoint(saved(tmp_path / "b.ckpt", encoder))


def test_an_autoencoder_of_patches_needs_its_own_config(tmp_path):
    weights = autoencoder_weights()
    weights["encoder.layers.0.weight_v"] = torch.ones(8, 64, 7)
    with pytest.raises(CheckpointError, match="an autoencoder of 64 channels, patches of samples"):
        import_checkpoint(saved(tmp_path / "a.ckpt", weights))
    whole = whole_weights() | {"pretransform.model.encoder.layers.0.weight_v": torch.ones(8, 64, 7)}
    with pytest.raises(CheckpointError, match="an autoencoder of 64 channels, patches of samples"):
        import_checkpoint(saved(tmp_path / "b.ckpt", whole))


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="expected groupnorm or layernorm, found 'batch'"):
        Unseen(norm_type="batch")
