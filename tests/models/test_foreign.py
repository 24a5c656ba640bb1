"""A file of another kind gets a sentence that says what it is and what to do."""

import gzip
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mge_plugin.models.checkpoints import (
    _LIGHTNING,
    _OTHER_DIFFUSION,
    _OTHER_TRAINING,
    AUTOENCODER,
    AUTOENCODER_TRAINING,
    CLAP,
    INNER_AUTOENCODER,
    OURS,
    PUBLISHED,
    CheckpointError,
    _kind_of,
    load_into,
    read_checkpoint,
)
from mge_plugin.models.published import import_checkpoint
from tests.models.published import autoencoder_weights, saved, whole_weights

BLOCK = "transformer.layers.0"
ADVICE = "write its weights alone with the unwrap_model.py of the program that trained it"


class Model(torch.nn.Module):
    """A module with tensors of any names."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def state_dict(self):
        return {name: torch.zeros(1) for name in self.names}


def refused(read, path) -> str:
    with pytest.raises(CheckpointError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model_dit.x", "pretransform.model.encoder.layers.0.bias"], PUBLISHED),
        (["diffusion.model_dit.x"], PUBLISHED),
        ([f"model.model.{BLOCK}.to_modulations.2.weight", "pretransform.model.x"], OURS),
        ([f"diffusion.model.model.{BLOCK}.to_modulations.2.weight", "losses.x"], OURS),
        ([f"model.model.{BLOCK}.cross_attn.x", "pretransform.model.encoder.x"], _OTHER_DIFFUSION),
        ([f"diffusion.model.model.{BLOCK}.cross_attn.x"], _OTHER_TRAINING),
        (["module.text_branch.x", "module.logit_scale_a"], CLAP),
        (["audio_branch.x"], CLAP),
        (["autoencoder.encoder.layers.0.bias", "discriminator.x"], AUTOENCODER_TRAINING),
        (["pretransform.model.decoder.layers.0.bias"], INNER_AUTOENCODER),
        (["encoder.layers.0.bias", "decoder.layers.0.bias"], AUTOENCODER),
        (["encoder.block.0.bias"], None),
        (["layer1.0.conv1.weight"], None),
        ([], None),
    ],
)
def test_the_names_of_tensors_tell_what_they_are(names, kind):
    assert _kind_of(names) is kind


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "model_dit.x",
            "the published implementation's model, expected .*; `mge import` converts it",
        ),
        ("module.text_branch.x", "a CLAP, expected .*; set it as ckpt_path"),
        ("autoencoder.encoder.layers.0.bias", "a training checkpoint of an autoencoder, expected"),
        ("encoder.layers.0.bias", "an autoencoder alone, expected .* --pretransform-ckpt-path"),
        ("model.model.transformer.x", "another diffusion model of stable-audio-tools, expected"),
    ],
)
def test_a_model_given_another_kind_of_weights_says_which(tmp_path, name, sentence):
    model = Model([f"model.model.{BLOCK}.to_modulations.2.weight"])
    path = saved(tmp_path / "other.ckpt", {name: torch.ones(1)})
    with pytest.raises(CheckpointError, match=sentence) as raised:
        load_into(model, path)
    assert ", expected a three-track model of this plugin; " in str(raised.value)


def test_an_autoencoder_given_a_whole_model_says_so(tmp_path):
    model, name = Model(["encoder.layers.0.bias"]), f"model.model.{BLOCK}.to_modulations.2.weight"
    path = saved(tmp_path / "whole.ckpt", {name: torch.ones(1)})
    assert refused(lambda path: load_into(model, path), path) == (
        "a three-track model of this plugin, expected an autoencoder alone; "
        "`mge import --autoencoder-only` extracts its autoencoder"
    )


def test_a_model_of_the_same_kind_says_what_does_not_fit(tmp_path):
    name = f"model.model.{BLOCK}.to_modulations.2.weight"
    path = saved(tmp_path / "other.ckpt", {name: torch.ones(2)})
    message = refused(lambda path: load_into(Model([name]), path), path)
    assert message.startswith("does not fit the model config: 1 misshapen")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("module.text_branch.x", "a CLAP, expected the published three-track model; set it"),
        ("model.model.transformer.x", "another diffusion model of stable-audio-tools, expected"),
        (f"model.model.{BLOCK}.to_modulations.2.weight", "a three-track model of this plugin alre"),
        ("layer1.0.weight", "neither the published three-track model nor an autoencoder, found te"),
    ],
)
def test_what_cannot_be_imported_is_told(tmp_path, name, sentence):
    path = saved(tmp_path / "other.ckpt", {name: torch.ones(1)})
    assert refused(import_checkpoint, path).startswith(sentence)


def test_a_lightning_checkpoint_of_another_model_is_told(tmp_path):
    beside = {"pytorch-lightning_version": "2.5.5", "epoch": 1}
    path = saved(tmp_path / "resnet.ckpt", {"layer1.weight": torch.ones(1)}, **beside)
    sentence = f"{_LIGHTNING.name}, expected {{}}; {_LIGHTNING.advice}"
    expected = sentence.format("the published three-track model")
    assert refused(import_checkpoint, path) == expected
    model = Model([f"model.model.{BLOCK}.to_modulations.2.weight"])
    message = refused(lambda path: load_into(model, path), path)
    assert message == sentence.format("a three-track model of this plugin")


def test_a_clap_with_its_scores_is_read_and_recognised(tmp_path):
    content = {"module.text_branch.x": torch.ones(1)}
    path = saved(tmp_path / "clap.pt", content, score=np.float64(0.9))
    model = Model([f"model.model.{BLOCK}.to_modulations.2.weight"])
    assert refused(lambda path: load_into(model, path), path).startswith(CLAP.name)


@pytest.mark.parametrize(
    ("weights", "beside", "name"),
    [
        (whole_weights, {}, PUBLISHED.name),
        (lambda: {"a": torch.ones(1)}, {"pytorch-lightning_version": "2.5"}, _LIGHTNING.name),
    ],
)
def test_a_file_with_more_than_tensors_is_told_what_it_is(tmp_path, weights, beside, name):
    path = saved(tmp_path / "a.ckpt", weights(), config=pathlib.PurePosixPath("a"), **beside)
    message = refused(read_checkpoint, path)
    assert message.startswith(
        f"{name}, refused, since to unpickle it would call pathlib.PurePosixPath"
    )
    assert message.endswith(ADVICE)


def test_flipped_bytes_of_the_directory_give_a_sentence_or_are_harmless(tmp_path):
    path = saved(tmp_path / "a.ckpt", whole_weights())
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x01\x02") - 2000  # the zip archive's directory
    for place in (*range(start, len(content), 53), *range(len(content) - 98, len(content))):
        changed = content.copy()
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")


PAGE = "a web page, saved in place of the file; download it again"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html>\n<html>Virus scan warning</html>", PAGE),
        (b"\xef\xbb\xbf\r\n <HTML>", PAGE),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a message in XML"),
        (b'{"error": "not found"}', "a text in JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; `git lfs pull`"),
        (gzip.compress(b"weights", mtime=0), "a gzip archive; unpack it"),
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_that_is_no_checkpoint_is_told_by_its_first_bytes(tmp_path, content, told, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    message = refused(read_checkpoint, path)
    assert message.startswith(f"not a readable checkpoint but {told}")
    assert message.endswith(f"({len(content)} bytes)")


def test_an_archive_of_other_files_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("unwrapped_DiT.ckpt", "x")
    assert "a zip archive of other files (unwrapped_DiT.ckpt); unpack it" in refused(
        read_checkpoint, tmp_path / "a.ckpt"
    )


@pytest.mark.parametrize("size", [300, 100_000])
def test_a_truncated_download_is_told_with_its_size(tmp_path, size):
    path = saved(tmp_path / "a.ckpt", whole_weights())
    path.write_bytes(path.read_bytes()[:size])
    assert refused(import_checkpoint, path) == (
        "not a readable checkpoint but an incomplete download, its end is missing; "
        f"fetch it again and compare its size ({size} bytes)"
    )


def test_a_truncated_safetensors_file_is_no_text(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(ord("{").to_bytes(8, "little") + b'{"a":{"dtype":"F32"')  # so long a header
    message = refused(read_checkpoint, path)
    assert message.startswith("not a readable checkpoint (27 bytes: ")
    assert "an incomplete download" in message


def test_a_file_is_known_by_its_content_not_its_name(tmp_path):
    weights = autoencoder_weights()
    save_file(weights, tmp_path / "a.ckpt")
    torch.save(weights, tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert read_checkpoint(tmp_path / name).keys() == weights.keys()
