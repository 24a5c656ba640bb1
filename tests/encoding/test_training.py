"""From a corpus to a step of training: from latents it is the step that audio would give."""

import json

import pytest
import torch
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from torch.testing import assert_close

from mge_plugin.check import check_configs
from tests.encoding.tiny import CHANNELS, RATE, RATIO, model_config


def loader_of(dataset, size=1024, **options):
    arguments = {"batch_size": 2, "sample_size": size, "sample_rate": RATE, "audio_channels": 1}
    return create_dataloader_from_config(dataset, **arguments | {"num_workers": 0} | options)


def latents_config(store, **options):
    entry = {"id": "songs", "path": str(store.root)}
    return {"dataset_type": "mge_latents", "datasets": [entry]} | options


def wrapper_of(config, ckpt):
    torch.manual_seed(0)
    model = create_model_from_config(config)
    weights = torch.load(ckpt, weights_only=True)["state_dict"]
    model.pretransform.model.load_state_dict(weights)
    return create_training_wrapper_from_config(config, model)


def test_the_model_trains_on_latents_through_sats_factories(three, run, ckpt, trainer):
    store, _ = run(three)
    config = model_config()
    loader = loader_of(latents_config(store, epoch_items=6))
    reals, metadata = next(iter(loader))
    assert reals.shape == (2, 3 * CHANNELS, 1024 // RATIO) and len(metadata) == 2
    wrapper = wrapper_of(config, ckpt)
    before = {k: v.clone() for k, v in wrapper.diffusion.model.state_dict().items()}
    quiet = trainer(max_steps=3)
    quiet.fit(wrapper, loader)
    assert quiet.global_step == 3
    assert any(
        not torch.equal(v, before[k]) for k, v in wrapper.diffusion.model.state_dict().items()
    )


def test_latents_of_a_window_are_what_training_on_audio_encodes(corpus, run, ckpt):
    """Songs as long as a window, so that both see the same edges; scaled as the model says."""
    for number in range(4):
        corpus.song(f"{number}", 1024, ("bass", "drums"))
    store, _ = run(corpus)
    audio = list(loader_of(json.loads(corpus.config.read_text()) | {"epoch_items": 20}))
    latents = list(loader_of(latents_config(store, epoch_items=20, posterior="mean")))
    config = model_config()
    ahead = wrapper_of(config, ckpt)
    config["training"]["pre_encoded"] = False
    on_the_fly = wrapper_of(config, ckpt)
    expected = by_source(audio, lambda reals: on_the_fly.encode(reals))
    found = by_source(latents, lambda reals: ahead.encode(reals))
    assert found.keys() == expected.keys() and len(found) == 8
    for key, (encoded, item) in found.items():
        assert_close(encoded, expected[key][0], atol=1e-4, rtol=0)
        assert item["prompt"] == expected[key][1]["prompt"]


def by_source(batches, encode):
    """Encoded items and metadata by song and source."""
    return {
        (item["path"], item["labels"]["source"][0]): (encoded, item)
        for reals, metadata in batches
        for encoded, item in zip(encode(reals), metadata, strict=True)
    }


@pytest.mark.parametrize("kind", ["latents", "triplets"])
def test_check_says_when_latents_and_pre_encoded_do_not_go_together(three, run, tmp_path, kind):
    store, _ = run(three)
    model, dataset = model_config(), latents_config(store)
    if kind == "triplets":
        dataset = json.loads(three.config.read_text())
    paths = [tmp_path / "model.json", tmp_path / "dataset.json"]
    for pre_encoded in (True, False):
        model["training"]["pre_encoded"] = pre_encoded
        for path, config in zip(paths, (model, dataset), strict=True):
            path.write_text(json.dumps(config))
        problems = check_configs(*paths)
        assert len(problems) == (pre_encoded != (kind == "latents"))
        assert all("training.pre_encoded is" in problem for problem in problems)


def test_check_compares_the_models_sizes_with_the_latents(three, run, tmp_path):
    store, _ = run(three)
    model, dataset = model_config(), latents_config(store)
    model |= {"sample_rate": 8000}
    model["model"]["pretransform"]["config"]["encoder"]["config"]["strides"] = [2, 2]
    model["model"]["pretransform"]["config"]["decoder"]["config"]["strides"] = [2, 2]
    model["model"]["pretransform"]["config"]["downsampling_ratio"] = 16
    paths = [tmp_path / "model.json", tmp_path / "dataset.json"]
    for path, config in zip(paths, (model, dataset), strict=True):
        path.write_text(json.dumps(config))
    text = "\n".join(check_configs(*paths))
    assert "sample_rate: the model has 8000, the latents were made of audio with 4000" in text
    assert "downsampling_ratio is 16, but the latents need 32" in text
