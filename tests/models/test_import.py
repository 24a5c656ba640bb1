"""The published checkpoint in and out; the golden files, imported, give their outputs."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stable_audio_tools.models.utils import load_ckpt_state_dict
from torch.testing import assert_close

from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.models import published as official
from mge_plugin.models.autoencoder import autoencoder_problems, decode_tracks, encode_tracks
from mge_plugin.models.checkpoints import load_into, write_weights
from mge_plugin.models.given import Given
from mge_plugin.models.mge import create_mge_model, model_problems
from mge_plugin.models.published import (
    Unseen,
    _autoencoder_config,
    _check_fit,
    import_checkpoint,
    model_config,
)
from mge_plugin.tracks import Track, pack, unpack
from tests.denoise import denoise_tracks
from tests.models.published import (
    GOLDEN,
    PREFIX,
    RATIO,
    autoencoder_weights,
    network_weights,
    saved,
    under,
    whole_weights,
)

KEYS = json.loads((GOLDEN / "official_checkpoint_keys.json").read_text())
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture
def published(tmp_path):
    return saved(tmp_path / "published.ckpt", whole_weights())


def opened(imported, tmp_path):
    """The model of an imported file, written and loaded."""
    path = write_weights(imported.weights, tmp_path / "ours.safetensors")
    model = create_mge_model(imported.config)
    load_into(model, path)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("norm", ["groupnorm", "layernorm"])
@pytest.mark.parametrize("track", [None, Track.MIXTURE])
def test_a_golden_network_imported_gives_its_outputs(norm, track, tmp_path):
    path = GOLDEN / f"official_dit_{norm}_tiny.safetensors"
    golden, imported = load_file(path), import_checkpoint(path, Unseen(norm_type=norm))
    assert all(key.startswith("io.") for key in imported.left_out)
    model, embeddings = opened(imported, tmp_path), golden["io.global_embed"]
    v = model.model(golden["io.x"], golden["io.t_per_track"], global_cond=embeddings)
    assert_close(v, golden["io.v_per_track"], **TOLERANCE)
    given = None if track is None else Given.track(track, golden["io.given_z"])
    noise = unpack(golden["io.noise"])
    latents = denoise_tracks(model.model, noise, embeddings, given, linear_schedule(7), 2.0)
    name = "io.ddim_total" if track is None else "io.ddim_given_track0"
    assert_close(pack(latents), golden[f"{name}_steps7_cfg2"], **TOLERANCE)


def test_a_golden_autoencoder_imported_gives_its_outputs(tmp_path):
    from stable_audio_tools.models import create_model_from_config

    path = GOLDEN / "official_ae_tiny.safetensors"
    golden, imported = load_file(path), import_checkpoint(path)
    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])["model"]
    for side in ("encoder", "decoder"):
        assert imported.config["model"][side]["config"] == sizes[side]
    for key in ("latent_dim", "downsampling_ratio", "io_channels", "bottleneck"):
        assert imported.config["model"][key] == sizes[key]
    assert autoencoder_problems(imported.config, "model") == []
    weights = write_weights(imported.weights, tmp_path / "vae.safetensors")
    autoencoder = create_model_from_config(imported.config).eval().requires_grad_(False)
    autoencoder.load_state_dict(load_ckpt_state_dict(str(weights)))  # as SAT's train.py does
    latents, _ = autoencoder.encoder(golden["io.wav"]).chunk(2, dim=1)
    assert_close(latents, golden["io.latent_mean"], **TOLERANCE)
    assert_close(autoencoder.decoder(golden["io.latent_mean"]), golden["io.decoded"], **TOLERANCE)


def test_a_whole_model_is_imported_with_the_config_that_fits(published, tmp_path):
    imported = import_checkpoint(published)
    assert model_problems(imported.config) == []
    assert imported.config["sample_size"] == 100 * RATIO
    assert imported.config["model"]["conditioning"]["configs"][0]["type"] == "mge_hashed_words"
    model = opened(imported, tmp_path)
    golden = load_file(GOLDEN / "official_ae_tiny.safetensors")
    latents = encode_tracks(model.pretransform, golden["io.wav"][:, None])[:, 0]
    assert_close(latents, golden["io.latent_mean"], **TOLERANCE)
    audio = decode_tracks(model.pretransform, golden["io.latent_mean"][:, None])[:, 0]
    assert_close(audio, golden["io.decoded"], **TOLERANCE)


def test_what_was_found_is_told(published, tmp_path):
    assert import_checkpoint(published).summary() == [
        "found: the published implementation's model, float32",
        "network: 369,920 parameters",
        "autoencoder: 34,729 parameters",
        "sizes: depth 2, num_heads 3, embed_dim 96, io_channels 24, global_cond_dim 16",
        "window: 3200 samples, 0.20 s",
    ]
    half = {key: value.half() for key, value in network_weights().items()}
    others = {f"losses.{i}": torch.ones(1) for i in range(4)}
    alone = import_checkpoint(saved(tmp_path / "network.ckpt", half | others)).summary()
    assert alone[0].endswith(", float16")
    assert alone[-2:] == [
        "window: 100 latent frames; without an autoencoder",
        "left out: 4 other tensors (losses.0, losses.1, losses.2, ...)",
    ]


def test_every_name_of_the_full_size_checkpoint_finds_its_place():
    """Sizes, parameters and config of the real one, on the meta device."""
    with torch.device("meta"):
        published = {key: torch.empty(shape) for key, shape in KEYS.items()}
    weights = official._from_official(published)
    config = model_config(weights, Unseen())
    model = _check_fit(config, weights)
    assert sum(p.numel() for p in model.model.parameters()) == 1_023_040_640
    assert sum(p.numel() for p in model.pretransform.parameters()) == 156_110_721
    assert official.to_official(weights).keys() == published.keys()
    assert (config["sample_size"], config["sample_rate"]) == (204800, 16000)
    (conditioner,) = config["model"]["conditioning"]["configs"]
    assert conditioner["type"] == "mge_clap"
    assert conditioner["config"]["ckpt_path"].endswith("music_audioset_epoch_15_esc_90.14.pt")
    shipped = GOLDEN.parents[1] / "model_configs"
    expected = json.loads((shipped / "mge_dit_16k.json").read_text())["model"]
    assert config["model"]["diffusion"]["config"] == expected["diffusion"]["config"]
    assert config["model"]["pretransform"] == expected["pretransform"]
    bare = {key.removeprefix(PREFIX): v for key, v in weights.items() if key.startswith(PREFIX)}
    vae = json.loads((shipped / "mge_vae_16k.json").read_text())
    assert _autoencoder_config(bare, Unseen()) == vae


def renamed(weights):
    """torch 2's names of weight norm."""
    new = {".weight_g": ".parametrizations.weight.original0",
           ".weight_v": ".parametrizations.weight.original1"}  # fmt: skip
    return {
        next((k.removesuffix(old) + n for old, n in new.items() if k.endswith(old)), k): value
        for k, value in weights.items()
    }


def test_both_names_of_weight_norm_are_known(published, tmp_path):
    newer = saved(tmp_path / "newer.ckpt", renamed(whole_weights()))
    imported = import_checkpoint(newer)
    assert_close(imported.weights, import_checkpoint(published).weights, atol=0, rtol=0)
    model = create_mge_model(imported.config)
    save_file(renamed(imported.weights), tmp_path / "ours.safetensors")
    load_into(model, tmp_path / "ours.safetensors")
    assert_close(model.state_dict(), imported.weights, atol=0, rtol=0)


@pytest.mark.parametrize(
    "prefix", ["pretransform.model.", "autoencoder.", "", "module.", "module.autoencoder."]
)
def test_an_autoencoder_is_known_under_any_prefix(tmp_path, prefix):
    path = saved(tmp_path / "vae.ckpt", autoencoder_weights(prefix))
    imported = import_checkpoint(path)
    assert_close(imported.weights, autoencoder_weights(), atol=0, rtol=0)
    assert imported.config["model_type"] == "autoencoder"
    assert imported.left_out == []


def test_the_averaged_autoencoder_of_a_training_is_taken(tmp_path):
    weights = autoencoder_weights()
    trained = {key: value + 1 for key, value in weights.items()}
    content = under("autoencoder.", trained) | under("autoencoder_ema.ema_model.", weights)
    content |= {"discriminator.weight": torch.ones(2)}
    imported = import_checkpoint(saved(tmp_path / "training.ckpt", content))
    assert_close(imported.weights, weights, atol=0, rtol=0)
    assert "discriminator.weight" in imported.left_out


def test_an_autoencoder_is_taken_out_of_a_whole_model(published, tmp_path):
    ours = write_weights(import_checkpoint(published).weights, tmp_path / "ours.safetensors")
    for path in (published, ours):
        imported = import_checkpoint(path, autoencoder_only=True)
        assert_close(imported.weights, autoencoder_weights(), atol=0, rtol=0)


def test_the_averaged_network_of_a_published_training_is_taken(tmp_path):
    network, whole = network_weights(), whole_weights()
    trained = {key: value + 1 for key, value in network.items()}
    averaged = {key.removeprefix("model_dit."): value for key, value in network.items()}
    content = under("diffusion.", whole | trained) | under("diffusion_ema.ema_model.", averaged)
    path = saved(tmp_path / "training.ckpt", content, epoch=3)
    expected = import_checkpoint(saved(tmp_path / "unwrapped.ckpt", whole)).weights
    assert_close(import_checkpoint(path).weights, expected, atol=0, rtol=0)
