"""The published checkpoint in and out; the golden files, imported, give their outputs."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.utils import load_ckpt_state_dict
from torch.testing import assert_close

from mge_plugin import registry
from mge_plugin.check import check_model
from mge_plugin.inference.denoise import denoise_tracks
from mge_plugin.inference.schedule import linear_schedule
from mge_plugin.models import official
from mge_plugin.models.checkpoints import CheckpointError, load_weights, read_checkpoint
from mge_plugin.models.given import Given
from mge_plugin.models.importing import (
    Unseen,
    export_official,
    import_checkpoint,
    write_weights,
)
from mge_plugin.models.latents import decode_tracks, encode_tracks
from mge_plugin.models.mge import create_mge_model
from mge_plugin.tracks import Track, pack, unpack

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = json.loads((GOLDEN / "official_checkpoint_keys.json").read_text())
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture
def published(tmp_path):
    """A small published file: golden network, golden autoencoder."""
    network = load_file(GOLDEN / "official_dit_groupnorm_tiny.safetensors")
    autoencoder = load_file(GOLDEN / "official_ae_tiny.safetensors")
    weights = {k: v for k, v in (network | autoencoder).items() if not k.startswith("io.")}
    path = tmp_path / "published.ckpt"
    torch.save({"state_dict": weights}, path)
    return path


def opened(path, unseen=None):
    """The model of an imported file, its weights in it."""
    imported = import_checkpoint(path, unseen)
    model = create_mge_model(imported.config)
    model.load_state_dict(imported.weights, strict=True)
    return model.eval().requires_grad_(False), imported


@pytest.mark.parametrize("norm", ["groupnorm", "layernorm"])
@pytest.mark.parametrize("track", [None, Track.MIXTURE])
def test_a_golden_network_imported_gives_its_outputs(norm, track):
    path = GOLDEN / f"official_dit_{norm}_tiny.safetensors"
    golden = load_file(path)
    model, imported = opened(path, Unseen(norm_type=norm))
    assert all(key.startswith("io.") for key in imported.left_out)
    embeddings = golden["io.global_embed"]
    v = model.model(golden["io.x"], golden["io.t_per_track"], global_cond=embeddings)
    assert_close(v, golden["io.v_per_track"], **TOLERANCE)
    given = None if track is None else Given.track(track, golden["io.given_z"])
    noise = unpack(golden["io.noise"])
    latents = denoise_tracks(model.model, noise, embeddings, given, linear_schedule(7), 2.0)
    name = "io.ddim_total" if track is None else "io.ddim_given_track0"
    assert_close(pack(latents), golden[f"{name}_steps7_cfg2"], **TOLERANCE)


def test_a_golden_autoencoder_imported_gives_its_outputs(tmp_path):
    registry.install()
    path = GOLDEN / "official_ae_tiny.safetensors"
    golden, imported = load_file(path), import_checkpoint(path)
    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])["model"]
    for side in ("encoder", "decoder"):
        assert imported.config["model"][side]["config"] == sizes[side]
    for key in ("latent_dim", "downsampling_ratio", "io_channels", "bottleneck"):
        assert imported.config["model"][key] == sizes[key]
    weights = write_weights(imported.weights, tmp_path / "vae.safetensors")
    autoencoder = create_model_from_config(imported.config).eval().requires_grad_(False)
    autoencoder.load_state_dict(load_ckpt_state_dict(str(weights)))
    latents, _ = autoencoder.encoder(golden["io.wav"]).chunk(2, dim=1)
    assert_close(latents, golden["io.latent_mean"], **TOLERANCE)
    assert_close(autoencoder.decoder(golden["io.latent_mean"]), golden["io.decoded"], **TOLERANCE)


def test_a_whole_model_is_imported_with_the_config_that_fits(published):
    model, imported = opened(published)
    config = imported.config
    assert check_model(config) == []
    assert config["sample_size"] == 100 * 32
    golden = load_file(GOLDEN / "official_ae_tiny.safetensors")
    latents = encode_tracks(model.pretransform, golden["io.wav"][:, None])[:, 0]
    assert_close(latents, golden["io.latent_mean"], **TOLERANCE)
    audio = decode_tracks(model.pretransform, golden["io.latent_mean"][:, None])[:, 0]
    assert_close(audio, golden["io.decoded"], **TOLERANCE)
    assert "window: 3200 samples, 0.20 s" in imported.summary()


def test_there_and_back_is_the_same_file(published, tmp_path):
    ours = write_weights(import_checkpoint(published).weights, tmp_path / "ours.safetensors")
    assert export_official(ours, tmp_path / "back.ckpt") == len(read_checkpoint(published))
    before = torch.load(published, weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_every_name_of_the_full_size_checkpoint_finds_its_place():
    """Sizes, parameters and config of the real one, on the meta device."""
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in KEYS.items()}
    ours = official.from_official(weights)
    config = json.loads((GOLDEN.parents[1] / "model_configs" / "mge_dit_16k.json").read_text())
    with torch.device("meta"):
        model = create_mge_model(config)
    expected = model.state_dict()
    assert sorted(ours) == sorted(expected)
    assert all(ours[key].shape == value.shape for key, value in expected.items())
    assert official.to_official(ours).keys() == weights.keys()
    assert (
        official.network_sizes(ours) | {"norm_type": "groupnorm"}
        == (config["model"]["diffusion"]["config"])
    )
    bare = {k.removeprefix("pretransform.model."): v for k, v in ours.items()}
    encoder, decoder = official.encoder_sizes(bare), official.decoder_sizes(bare)
    section = config["model"]["pretransform"]["config"]
    assert encoder.strides == section["encoder"]["config"]["strides"]
    assert encoder.c_mults == decoder.c_mults == section["decoder"]["config"]["c_mults"]
    assert (encoder.channels, encoder.latent_dim, decoder.latent_dim) == (128, 128, 64)


def renamed(weights):
    """torch 2's names of weight norm."""
    new = {".weight_g": ".parametrizations.weight.original0",
           ".weight_v": ".parametrizations.weight.original1"}  # fmt: skip
    return {
        next((k.removesuffix(old) + n for old, n in new.items() if k.endswith(old)), k): value
        for k, value in weights.items()
    }


def test_both_names_of_weight_norm_are_known(published, tmp_path):
    weights = torch.load(published, weights_only=True)["state_dict"]
    newer = tmp_path / "newer.ckpt"
    torch.save(renamed(weights), newer)
    first, second = import_checkpoint(published).weights, import_checkpoint(newer).weights
    assert first.keys() == second.keys()
    model, imported = opened(published)
    save_file(renamed(imported.weights), tmp_path / "ours.safetensors")
    load_weights(model, tmp_path / "ours.safetensors")


@pytest.mark.parametrize("prefix", ["pretransform.model.", "autoencoder.", ""])
def test_an_autoencoder_is_known_under_any_prefix(tmp_path, prefix):
    golden = load_file(GOLDEN / "official_ae_tiny.safetensors")
    bare = {k.removeprefix("pretransform.model."): v for k, v in golden.items() if "io." not in k}
    other = {"discriminator.weight": torch.ones(2)}
    torch.save(other | {prefix + k: v for k, v in bare.items()}, tmp_path / "vae.ckpt")
    imported = import_checkpoint(tmp_path / "vae.ckpt")
    assert imported.weights.keys() == bare.keys()
    assert imported.left_out == ["discriminator.weight"]


def test_a_wider_conditioning_is_claps(published):
    weights = torch.load(published, weights_only=True)["state_dict"]
    key = "model_dit.to_global_embed.1.weight"
    weights[key] = torch.zeros(3 * 512, 512, 1)
    weights["model_dit.to_global_embed.3.weight"] = torch.zeros(96, 512, 1)
    torch.save(weights, published)
    config = import_checkpoint(published, Unseen(clap_ckpt="a.pt", clap_tokenizer="b")).config
    assert config["model"]["conditioning"]["cond_dim"] == 512
    (entry,) = config["model"]["conditioning"]["configs"]
    assert entry["type"] == "mge_clap"
    assert entry["config"] == {"ckpt_path": "a.pt", "tokenizer_path": "b"}


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        ({"module.text_branch.x": torch.ones(1)}, "neither the published three-track model"),
        ({"model.model.transformer.layers.0.to_modulations.2.weight": torch.ones(1)}, "already"),
        ({"model_dit.preprocess_conv.weight": torch.ones(1)}, "incomplete, it has no model.model"),
        ({"encoder.layers.0.x": torch.ones(1), "decoder.layers.0.x": torch.ones(1)}, "not an Oob"),
    ],
)
def test_another_file_is_told_what_it_is(tmp_path, weights, wrong):
    torch.save({"state_dict": weights}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match=wrong) as raised:
        import_checkpoint(tmp_path / "file.ckpt")
    assert str(raised.value).startswith(f"{tmp_path / 'file.ckpt'}: ")


def test_only_our_models_go_the_other_way(published, tmp_path):
    with pytest.raises(CheckpointError, match="not a model of this plugin, found model_dit"):
        export_official(published, tmp_path / "back.ckpt")
    assert not (tmp_path / "back.ckpt").exists()


def test_precision_is_kept_and_shared_memory_comes_apart(tmp_path):
    shared = torch.ones(4, dtype=torch.bfloat16)
    path = write_weights({"a": shared, "b": shared, "c": shared[:2]}, tmp_path / "w.safetensors")
    found = load_file(path)
    assert {t.dtype for t in found.values()} == {torch.bfloat16}
    assert found.keys() == {"a", "b", "c"}


def test_the_file_is_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_weights({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("model_dit.preprocess_conv.weight", "the published implementation's file; `mge import`"),
        ("module.text_branch.x", "a CLAP; the model config names it as ckpt_path"),
        ("autoencoder.encoder.layers.0.bias", "a training checkpoint of an autoencoder"),
        ("encoder.layers.0.bias", "an autoencoder alone, expected a whole three-track model"),
    ],
)
def test_a_model_given_another_kind_of_weights_says_which(published, tmp_path, key, sentence):
    model, _ = opened(published)
    torch.save({"state_dict": {key: torch.ones(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=sentence):
        load_weights(model, tmp_path / "other.ckpt")
