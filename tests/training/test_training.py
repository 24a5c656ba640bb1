"""Training through SAT's factories: it learns, resumes exactly, unwraps, and shows demos."""

import json
from importlib.util import find_spec

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import (
    create_training_wrapper_from_config,
)
from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper
from torch.testing import assert_close

from mge_plugin.config import ConfigError
from mge_plugin.inference.pipeline import load
from mge_plugin.inference.request import Sampling
from mge_plugin.models.checkpoints import read_checkpoint
from mge_plugin.training.randomness import ItemRandomness
from mge_plugin.training.wrapper import MGETrainingWrapper

LOSSES = (
    "none_given/mixture",
    "none_given/submixture",
    "none_given/source",
    "mixture_given/submixture",
    "mixture_given/source",
    "submixture_given/mixture",
    "submixture_given/source",
    "source_given/mixture",
    "source_given/submixture",
)


class Losses(pl.Callback):
    """The loss of every step, and where its first item starts."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        start = batch[1][0]["seconds_start"]
        self.steps.append((trainer.current_epoch, round(outputs["loss"].item(), 5), start))


def build(model_config, dataset_config, workers=0, batch_size=2):
    """Loader, model and wrapper in the order of SAT's train.py, from fixed weights."""
    torch.manual_seed(0)
    loader = create_dataloader_from_config(
        dataset_config,
        batch_size=batch_size,
        num_workers=workers,
        sample_rate=model_config["sample_rate"],
        sample_size=model_config["sample_size"],
        audio_channels=model_config["audio_channels"],
    )
    model = create_model_from_config(model_config)
    return loader, create_training_wrapper_from_config(model_config, model)


def sharpen(autoencoder):
    """Take the noise out of an untrained encoder's posterior: what is left can be learned."""
    bias = autoencoder.encoder.layers[-1].bias
    with torch.no_grad():
        bias[len(bias) // 2 :] = -10.0


def test_the_loss_falls_clearly_on_minislakh(model_config, dataset_config, trainer):
    dataset_config["epoch_items"] = 600
    model_config["model"]["pretransform"]["scale"] = 0.05
    loader, wrapper = build(model_config, dataset_config, batch_size=4)
    sharpen(wrapper.diffusion.pretransform.model)
    losses = Losses()
    trainer(max_steps=150, callbacks=[losses], gradient_clip_val=1.0).fit(wrapper, loader)
    values = [loss for _, loss, _ in losses.steps]
    first, last = sum(values[:20]) / 20, sum(values[-20:]) / 20
    assert last < 0.7 * first, f"loss went from {first:.3f} to {last:.3f}"


@pytest.mark.parametrize(("step", "batches"), [(4, 1), (6, 1), (8, 1), (2, 2)])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    model_config, dataset_config, trainer, tmp_path, step, batches
):
    """Six batches an epoch: the run is cut inside, at the end and inside of the next.

    Or inside, where each step takes the gradients of two batches.
    """
    whole = Losses()
    loader, wrapper = build(model_config, dataset_config)
    keep = pl.callbacks.ModelCheckpoint(
        dirpath=str(tmp_path), every_n_train_steps=step, save_top_k=-1, filename="{step}"
    )
    options = {"max_steps": 14 // batches, "accumulate_grad_batches": batches}
    run = trainer(callbacks=[whole, keep], enable_checkpointing=True, **options)
    run.fit(wrapper, loader)
    rest = Losses()
    loader, wrapper = build(model_config, dataset_config, workers=2 if step == 8 else 0)
    ckpt = str(tmp_path / f"step={step}.ckpt")
    trainer(callbacks=[rest], **options).fit(wrapper, loader, ckpt_path=ckpt)
    assert len(whole.steps) == 14
    assert rest.steps == whole.steps[step * batches :]


@pytest.mark.parametrize("p_absent", [0.0, 1.0])
def test_silence_is_an_answer_to_a_known_mixture_only(
    model_config, dataset_config, trainer, p_absent, monkeypatch
):
    """In training and in validation; music that is to be made anew is never silence."""
    dataset_config |= {"epoch_items": 16, "source": {"p_absent": p_absent}}
    loader, wrapper = build(model_config, dataset_config, batch_size=16)
    given = []

    def losses(latents, batch, t, draws, dropout):
        silent = [not real[-1].any() for real in batch[0]]
        given.extend(zip(silent, (t[:, 0] == 0).tolist(), strict=True))
        return original(latents, batch, t, draws, dropout)

    original = wrapper.diffusion_losses
    monkeypatch.setattr(wrapper, "diffusion_losses", losses)
    trainer(max_steps=1, limit_val_batches=1).fit(wrapper, loader, loader)
    assert len(given) == 32
    assert set(given) == ({(True, True)} if p_absent else {(False, True), (False, False)})


def test_checkpoints_unwrap_as_sat_does_it_and_open(
    model_config, dataset_config, trainer, tmp_path
):
    loader, wrapper = build(model_config, dataset_config)
    run = trainer(max_steps=2)
    run.fit(wrapper, loader)
    run.save_checkpoint(tmp_path / "wrapped.ckpt")
    unwrapped = DiffusionCondTrainingWrapper.load_from_checkpoint(
        tmp_path / "wrapped.ckpt",
        model=create_model_from_config(model_config),
        use_ema=True,
        lr=None,
        optimizer_configs=model_config["training"]["optimizer_configs"],
        strict=False,
    )
    for name in ("model.safetensors", "model.ckpt"):
        path = tmp_path / name
        unwrapped.export_model(str(path), use_safetensors=path.suffix == ".safetensors")
    exported = load_file(tmp_path / "model.safetensors")
    averaged = wrapper.diffusion_ema.ema_model.state_dict()
    for key, value in averaged.items():
        assert_close(exported[f"model.{key}"], value)
    for other in ("model.ckpt", "wrapped.ckpt"):
        found = read_checkpoint(tmp_path / other)
        assert found.keys() == exported.keys()
        assert all(torch.equal(found[key], exported[key]) for key in exported)
    (tmp_path / "model.json").write_text(json.dumps(model_config))
    pipeline = load(tmp_path / "model.json", tmp_path / "model.safetensors", "cpu")
    made = pipeline.generate("the sound of the bass", sampling=Sampling(steps=2))
    assert made.audio["mixture"].shape == (1, model_config["sample_size"])


def test_validation_is_the_same_every_time_and_in_batches_of_any_size(
    model_config, dataset_config, trainer
):
    dataset_config |= {"epoch_items": 8}
    logs = []
    for batch_size in (2, 4, 4):
        loader, wrapper = build(model_config, dataset_config, batch_size=batch_size)
        logs.append(trainer().validate(wrapper, loader, verbose=False)[0])
    assert logs[1] == logs[2]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    assert logs[0].keys() == {"val/loss", *(f"val/{name}" for name in LOSSES)}


def test_training_logs_the_loss_of_each_track_of_each_pattern(
    model_config, dataset_config, trainer
):
    seen = {}

    class Log(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.update(trainer.callback_metrics)

    loader, wrapper = build(model_config, dataset_config, batch_size=4)
    trainer(max_steps=6, callbacks=[Log()]).fit(wrapper, loader)
    others = {"train/loss", "train/lr", "train/std_data"}
    assert seen.keys() == others | {f"train/{name}" for name in LOSSES}


def test_the_global_generator_is_left_alone(model_config, dataset_config):
    loader, wrapper = build(model_config, dataset_config)
    batch = next(iter(loader))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    wrapper.encode(batch[0], ItemRandomness(3, [0, 1]))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_latents_are_taken_as_they_are(model_config, dataset_config):
    model_config["training"]["pre_encoded"] = True
    model_config["model"]["pretransform"]["scale"] = 2.0
    _, wrapper = build(model_config, dataset_config)
    latents = torch.randn(2, 96, 32)
    assert_close(
        wrapper.encode(latents, ItemRandomness(0, [0, 1])), latents.unflatten(1, (3, 32)) / 2.0
    )


def test_a_vae_draws_each_item_from_its_own_noise(model_config, dataset_config):
    loader, wrapper = build(model_config, dataset_config)
    reals, _ = next(iter(loader))
    both = wrapper.encode(reals, ItemRandomness(0, [5, 6]))
    second = wrapper.encode(reals[1:], ItemRandomness(0, [6]))
    assert_close(both[1:], second, atol=1e-5, rtol=0)
    mean = wrapper.encode(reals)
    assert (both - mean).abs().mean() > 1e-3
    wrapper.diffusion.pretransform.iterate_batch = True
    assert_close(wrapper.encode(reals), mean, atol=1e-5, rtol=0)


def test_a_bottleneck_of_another_kind_draws_by_item_too(model_config, dataset_config):
    """One of SAT's that draws from the global generator, in the VAE's place."""

    class Noisy(torch.nn.Module):
        def encode(self, x, return_info=False, **_):
            x = x.chunk(2, dim=1)[0]
            return x + torch.randn_like(x), {}

    loader, wrapper = build(model_config, dataset_config)
    wrapper.diffusion.pretransform.model.bottleneck = Noisy()
    reals, _ = next(iter(loader))
    before = torch.get_rng_state()
    both = wrapper.encode(reals, ItemRandomness(0, [5, 6]))
    second = wrapper.encode(reals[1:], ItemRandomness(0, [6]))
    assert_close(both[1:], second, atol=1e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (both - wrapper.encode(reals, ItemRandomness(0, [7, 8]))).abs().mean() > 0.1


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}], ids=str
)
def test_it_learns_in_mixed_precision_and_with_accumulation(
    model_config, dataset_config, trainer, options
):
    dataset_config["epoch_items"] = 400
    model_config["model"]["pretransform"]["scale"] = 0.05
    loader, wrapper = build(model_config, dataset_config, batch_size=4)
    sharpen(wrapper.diffusion.pretransform.model)
    losses = Losses()
    run = trainer(max_epochs=1, callbacks=[losses], gradient_clip_val=1.0, **options)
    run.fit(wrapper, loader)
    values = [loss for _, loss, _ in losses.steps]
    assert sum(values[-20:]) < 0.85 * sum(values[:20])
    assert all(p.dtype == torch.float32 for p in wrapper.diffusion.model.parameters())


def test_a_rectified_flow_trains_and_generates(model_config, dataset_config, trainer, tmp_path):
    model_config["model"]["diffusion"]["diffusion_objective"] = "rectified_flow"
    loader, wrapper = build(model_config, dataset_config)
    trainer(max_steps=2).fit(wrapper, loader)
    wrapper.export_model(str(tmp_path / "model.safetensors"), use_safetensors=True)
    (tmp_path / "model.json").write_text(json.dumps(model_config))
    pipeline = load(tmp_path / "model.json", tmp_path / "model.safetensors", "cpu")
    made = pipeline.generate("bass", sampling=Sampling(steps=2)).audio["mixture"]
    assert abs(made).max() > 0


def test_checkpoints_are_kept_by_number_and_by_validation_loss(
    model_config, dataset_config, trainer, tmp_path
):
    model_config["training"] |= {"keep_last": 2, "keep_best": 1, "ema_beta": 0.5}
    loader, wrapper = build(model_config, dataset_config)
    assert wrapper.diffusion_ema.beta == 0.5
    saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    options = {"callbacks": [saver], "enable_checkpointing": True, "val_check_interval": 2}
    run = trainer(max_steps=5, limit_val_batches=1, check_val_every_n_epoch=None, **options)
    run.fit(wrapper, loader, loader)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert len([name for name in names if name.startswith("best")]) == 1
    assert len([name for name in names if name.startswith("epoch")]) in (2, 3)  # one is newer


def test_a_random_autoencoder_is_refused_until_weights_are_loaded(model_config, dataset_config):
    model_config["training"]["allow_random_autoencoder"] = False
    _, wrapper = build(model_config, dataset_config)
    with pytest.raises(ConfigError, match="--pretransform-ckpt-path"):
        wrapper.on_train_start()
    autoencoder = wrapper.diffusion.pretransform
    changed = {name: value + 0.01 for name, value in autoencoder.model.state_dict().items()}
    autoencoder.load_state_dict(changed)
    wrapper.on_train_start()


def test_lora_needs_the_newer_sat(model_config, dataset_config):
    if find_spec("stable_audio_tools.models.lora"):
        pytest.skip("this stable-audio-tools has it")
    model_config["training"]["lora_config"] = {"rank": 4}
    with pytest.raises(ValueError, match=r"lora_config: needs stable-audio-tools 0\.0\.20, inst"):
        build(model_config, dataset_config)


def test_an_unknown_training_key_suggests_the_nearest(model_config, dataset_config):
    model_config["training"]["timestep"] = {}
    with pytest.raises(ValueError, match="training: unknown key 'timestep', did you mean 'timest"):
        build(model_config, dataset_config)


def test_the_wrapper_is_a_sat_wrapper(model_config, dataset_config):
    _, wrapper = build(model_config, dataset_config)
    assert isinstance(wrapper, MGETrainingWrapper)
    assert isinstance(wrapper, DiffusionCondTrainingWrapper)
