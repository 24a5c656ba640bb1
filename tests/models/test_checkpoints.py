import copy
import pathlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from mge_plugin.models.checkpoints import (
    CheckpointError,
    copy_state_dict,
    load_into,
    read_checkpoint,
    unwrap,
)
from mge_plugin.models.mge import create_mge_model


class Model(nn.Module):
    """The names that SAT's wrapper of a diffusion model has."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.model = nn.Linear(width, 2)
        self.pretransform = nn.Linear(2, 2)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) for k, v in Model().state_dict().items()}


def save(path, content):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def loaded(path):
    model = Model()
    load_into(model, path)
    return model.state_dict()


def refused(path, model=None) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_into(model or Model(), path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "MODEL.SAFETENSORS"])
def test_tensors_by_name_are_loaded(tmp_path, name):
    path = tmp_path / name
    if path.suffix.lower() == ".safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path)
    assert_close(loaded(path), weights())
    assert_close(loaded(str(path)), weights())


def test_a_state_dict_may_be_wrapped_as_lightning_and_sat_do(tmp_path):
    content = {
        "state_dict": weights(),
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1, "betas": [1, 2]},
    }
    assert_close(loaded(save(tmp_path / "a.ckpt", content)), weights())


def test_a_training_checkpoint_is_unwrapped(tmp_path):
    wrapped = {f"diffusion.{key}": value for key, value in weights().items()}
    path = save(tmp_path / "a.ckpt", {"state_dict": wrapped, "optimizer_states": [{"state": {}}]})
    assert_close(loaded(path), weights())


def test_the_averaged_network_is_preferred(tmp_path):
    trained, averaged = weights(0), weights(1)
    content = {f"diffusion.{key}": value for key, value in trained.items()}
    for key in ("weight", "bias"):
        content[f"diffusion_ema.ema_model.{key}"] = averaged[f"model.{key}"]
    content |= {"diffusion_ema.initted": torch.tensor(True), "diffusion_ema.step": torch.tensor(9)}
    content["losses.weight"] = torch.ones(1)
    expected = {k: (averaged if k.startswith("model.") else trained)[k] for k in trained}
    assert_close(unwrap(content), expected)
    assert_close(loaded(save(tmp_path / "a.ckpt", {"state_dict": content})), expected)


def test_prefixes_of_compiled_and_parallel_modules_are_removed(tmp_path):
    wrapped = {
        f"module._orig_mod.{key.replace('.', '._orig_mod.')}": v for key, v in weights().items()
    }
    assert_close(loaded(save(tmp_path / "a.ckpt", {"state_dict": wrapped})), weights())


def test_half_precision_is_loaded_into_the_models_own(tmp_path):
    path = save(tmp_path / "a.safetensors", {k: v.half() for k, v in weights().items()})
    assert_close(loaded(path), {k: v.half().float() for k, v in weights().items()})


def test_all_keys_that_do_not_fit_are_in_one_error(tmp_path):
    content = weights()
    content["model.wieght"] = content.pop("model.weight")
    content["pretransform.weight"] = torch.ones(2, 5)
    message = refused(save(tmp_path / "a.ckpt", content))
    assert "does not fit the model config: 1 missing (model.weight)" in message
    assert "1 unexpected (model.wieght)" in message
    assert "1 misshapen (pretransform.weight (2, 5) instead of (2, 2))" in message


def test_a_model_stays_as_it_was_when_a_checkpoint_does_not_fit(tmp_path):
    model = Model()
    before = copy.deepcopy(model.state_dict())
    content = weights()
    del content["model.bias"]
    refused(save(tmp_path / "a.safetensors", content), model)
    assert_close(model.state_dict(), before)


def test_many_keys_are_counted_and_the_first_named(tmp_path):
    message = refused(save(tmp_path / "a.ckpt", {f"k{i}": torch.ones(1) for i in range(100)}))
    assert "100 unexpected (k0, k1, k2, k3, k4, k5, k6, k7 and 92 more)" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_called_incomplete(tmp_path, suffix, share):
    whole = save(tmp_path / f"whole{suffix}", {"a": torch.ones(10_000)}).read_bytes()
    path = tmp_path / f"part{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refused(path)
    assert "an incomplete download" in message
    assert f"{path.stat().st_size} bytes" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<html>404</html>\n", b"\0" * 999])
def test_another_kind_of_file_is_not_readable(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert "not a readable checkpoint" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(1)],
        torch.ones(1),
        {},
        {"state_dict": {}},
        {"state_dict": [torch.ones(1)]},
        {"state_dict": None, "a": torch.ones(1)},
        {"a": 1},
        {1: torch.ones(1)},
    ],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    assert "contains no weights" in refused(save(tmp_path / "a.ckpt", content))


def test_what_is_no_tensor_among_the_weights_is_named(tmp_path):
    path = save(tmp_path / "a.ckpt", {"state_dict": weights() | {"model.extra": None}})
    assert "contains more than tensors among its weights: model.extra" in refused(path)


class Malicious:
    """Unpickled, it opens a file for writing."""

    def __init__(self, target) -> None:
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


def test_code_in_a_file_is_not_run(tmp_path):
    target = tmp_path / "made by unpickling"
    content = {"state_dict": weights(), "extra": Malicious(target)}
    path = save(tmp_path / "a.ckpt", content)
    assert "malicious: to unpickle it would run io.open" in refused(path)
    assert not target.exists()
    torch.load(path, weights_only=False)["extra"].close()
    assert target.exists()  # the file is malicious indeed


def test_an_object_that_is_no_tensor_is_refused_by_name(tmp_path):
    content = {"state_dict": weights(), "path": pathlib.PurePosixPath("a")}
    message = refused(save(tmp_path / "a.ckpt", content))
    assert "would call pathlib.PurePosixPath; expected tensors, numbers and texts only" in message


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent.ckpt: no such file"):
        read_checkpoint(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)


def network(depth=1, width=96):
    return create_mge_model(
        {
            "model_type": "diffusion_cond_inpaint",
            "sample_rate": 16000,
            "sample_size": 32,
            "model": {
                "io_channels": 12,
                "conditioning": {
                    "configs": [{"id": "prompt", "type": "mge_hashed_words"}],
                    "cond_dim": 16,
                },
                "diffusion": {
                    "type": "mge_dit",
                    "config": {
                        "io_channels": 12,
                        "embed_dim": width,
                        "depth": depth,
                        "num_heads": 3,
                        "global_cond_dim": 16,
                    },
                },
            },
        }
    )


def test_a_network_of_another_size_is_reported_by_its_sizes(tmp_path):
    path = save(tmp_path / "a.safetensors", network(depth=2, width=192).state_dict())
    message = refused(path, network())
    assert "embed_dim 192, the model config has 96; depth 2, the model config has 1" in message


def test_sats_loader_of_pretrained_weights_is_strict_about_the_network():
    model, trained = network(), network().state_dict()
    copy_state_dict(model, trained | {"other.weight": torch.ones(1)})
    assert_close(model.state_dict(), trained)
    with pytest.raises(CheckpointError, match=r"unwrap_model\.py"):
        copy_state_dict(model, {f"diffusion.{key}": value for key, value in trained.items()})
    with pytest.raises(CheckpointError, match="depth 2"):
        copy_state_dict(model, network(depth=2).state_dict())
