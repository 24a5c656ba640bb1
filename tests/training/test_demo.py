"""Demos: every task from held-out items, on disk and in the loggers, training left as it is."""

import logging

import pytest
import pytorch_lightning as pl
import soundfile as sf
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import (
    create_demo_callback_from_config,
    create_training_wrapper_from_config,
)
from torch.testing import assert_close

from mge_plugin.inference.sampling import linear_schedule
from mge_plugin.report.pictures import _PANEL_HEIGHT, _TITLE_HEIGHT
from mge_plugin.tracks import TASKS
from mge_plugin.training import demo


def build(model_config, dataset_config, workers=0):
    """Wrapper, loader and demo callback in the order of SAT's train.py, from fixed weights."""
    torch.manual_seed(0)
    loader = create_dataloader_from_config(
        dataset_config,
        batch_size=2,
        num_workers=workers,
        sample_rate=model_config["sample_rate"],
        sample_size=model_config["sample_size"],
        audio_channels=model_config["audio_channels"],
    )
    wrapper = create_training_wrapper_from_config(
        model_config, create_model_from_config(model_config)
    )
    return wrapper, loader, create_demo_callback_from_config(model_config, demo_dl=loader)


@pytest.fixture
def model_config(model_config):
    model_config["training"]["demo"]["demo_every"] = 2
    return model_config


class Steps(pl.Callback):
    """The loss of every step, and whether the network was in training mode."""

    def __init__(self):
        self.losses, self.modes = [], set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.modes.add(all(part.training for part in module.diffusion.model.modules()))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def test_every_task_is_written_as_sound_and_picture(
    model_config, dataset_config, trainer, tmp_path
):
    wrapper, loader, callback = build(model_config, dataset_config)
    trainer(max_steps=4, callbacks=[callback]).fit(wrapper, loader)
    tasks = [name for name, row in TASKS.items() if not row.new_prompt]
    names = {f"{step:08d}_{task}_cfg2" for step in (1, 3) for task in tasks}
    files = {path.name for path in (tmp_path / "demos").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("wav", "png")}
    for task in tasks:
        row = TASKS[task]
        path = tmp_path / "demos" / f"00000003_{task}_cfg2.wav"
        audio, rate = sf.read(path)
        assert rate == 16000
        assert len(audio) == 2 * (model_config["sample_size"] + 4000)  # two items, two gaps
        panels = 1 if row.given is None else 3
        picture = Image.open(path.with_suffix(".png"))
        assert picture.height == panels * (_PANEL_HEIGHT + _TITLE_HEIGHT)


def test_the_held_out_sounds_are_drawn_under_their_names(model_config, dataset_config, trainer):
    wrapper, loader, callback = build(model_config, dataset_config)
    callback.items = demo._demo_items(wrapper, loader, 2)
    made = torch.zeros(2, 1, model_config["sample_size"])
    sounds = callback._sounds(TASKS["add"], made, "a | b")
    assert list(sounds) == ["given submixture", "true source", "made source: a | b"]
    first = loader.dataset[0][0]  # k*channels, samples
    samples = model_config["sample_size"]
    assert_close(torch.from_numpy(sounds["given submixture"][0, :samples]), first[1])
    assert_close(torch.from_numpy(sounds["true source"][0, :samples]), first[2])
    assert not sounds["made source: a | b"].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_training_goes_on_as_if_there_were_no_demos(
    model_config, dataset_config, trainer, tmp_path, workers
):
    """The demos' loader is training's own, as without a validation set."""
    runs = []
    for shown in (False, True):
        wrapper, loader, callback = build(model_config, dataset_config, workers)
        steps = Steps()
        callbacks = [callback, steps] if shown else [steps]
        torch.manual_seed(5)
        trainer(max_steps=5, callbacks=callbacks).fit(wrapper, loader)
        runs.append((steps.losses, torch.get_rng_state().sum(), steps.modes))
    assert len(runs[0][0]) == 5
    assert runs[0] == runs[1]
    assert runs[1][2] == {True}
    assert (tmp_path / "demos").is_dir()


def test_the_averaged_weights_are_heard(model_config, dataset_config):
    wrapper, loader, _ = build(model_config, dataset_config)
    items = demo._demo_items(wrapper, loader, 1)
    for parameter in wrapper.diffusion.model.parameters():
        parameter.data.fill_(float("nan"))

    def made():
        with torch.no_grad():
            return demo._sample_task(
                wrapper, TASKS["extract"], items, linear_schedule(2), cfg_scale=2.0
            )

    assert made().isfinite().all()
    wrapper.diffusion_ema = None  # as with use_ema false
    assert made().isnan().any()


def test_the_text_of_the_prompted_track_is_asked(model_config, dataset_config):
    wrapper, loader, _ = build(model_config, dataset_config)
    items = demo._demo_items(wrapper, loader, 1)
    (asked,) = demo._prompts(wrapper.diffusion, TASKS["extract"], items)
    assert asked == {"prompt": {"source": items.metadata[0]["prompt"]["source"]}}
    assert asked["prompt"]["source"].startswith("The sound of the ")


def test_demos_may_have_prompts_of_their_own(model_config, dataset_config):
    prompts = [{"prompt": "a"}, {"prompt": {"source": "b"}}]
    model_config["training"]["demo"] |= {"demo_cond": prompts, "num_demos": 2}
    wrapper, _, callback = build(model_config, dataset_config)
    items = callback._items(wrapper)
    for name, texts in {"extract": ["a", "b"], "generate": ["a", None]}.items():
        found = demo._prompts(wrapper.diffusion, TASKS[name], items)
        label = TASKS[name].prompted.label
        assert [item["prompt"][label] for item in found] == texts


def test_a_new_run_keeps_the_demos_of_the_one_before_and_a_resumed_run_continues(tmp_path):
    first, second = tmp_path / "demos", tmp_path / "demos_2"
    assert demo._folder(tmp_path, resumed=False) == first == demo._folder(tmp_path, resumed=True)
    first.mkdir()
    assert demo._folder(tmp_path, resumed=False) == second
    assert demo._folder(tmp_path, resumed=True) == first


def test_latents_are_decoded_to_be_shown(model_config, dataset_config):
    model_config["training"]["pre_encoded"] = True
    wrapper, _, _ = build(model_config, dataset_config)
    latents = torch.randn(1, 96, 32)
    items = demo._demo_items(wrapper, [(latents, [{"prompt": {"source": "bass"}}])], 4)
    assert items.audio.shape == (1, 3, 1, 8192)
    assert items.audio.abs().max() > 0


def test_demos_run_in_the_trainers_precision(
    model_config, dataset_config, trainer, tmp_path, monkeypatch
):
    seen, sample_task = [], demo._sample_task

    def sample(module, task, items, schedule, cfg_scale):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), schedule.dtype))
        return sample_task(module, task, items, schedule, cfg_scale)

    monkeypatch.setattr(demo, "_sample_task", sample)
    wrapper, loader, callback = build(model_config, dataset_config)
    trainer(max_steps=1, callbacks=[callback], precision="bf16-mixed").fit(wrapper, loader)
    assert set(seen) == {(True, False, torch.float32)}
    assert not torch.is_autocast_enabled("cpu")


def test_a_later_failure_is_logged_and_training_goes_on(
    model_config, dataset_config, trainer, monkeypatch, caplog
):
    wrapper, loader, callback = build(model_config, dataset_config)

    def sample(*_):
        if wrapper.global_step > 1:
            raise RuntimeError("out of memory")
        return torch.zeros(2, 1, 8192)

    monkeypatch.setattr(demo, "_sample_task", sample)
    steps = Steps()
    with caplog.at_level(logging.ERROR, logger="mge_plugin"):
        trainer(max_steps=6, callbacks=[callback, steps]).fit(wrapper, loader)
    assert len(steps.losses) == 6
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"demos of step {step} failed, training continues: RuntimeError: out of memory"
        for step in (3, 5)
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]


def test_a_failure_at_the_first_step_ends_the_run(
    model_config, dataset_config, trainer, monkeypatch
):
    def sample(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(demo, "_sample_task", sample)
    wrapper, loader, callback = build(model_config, dataset_config)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(max_steps=3, callbacks=[callback]).fit(wrapper, loader)


def test_without_an_autoencoder_there_are_no_demos(
    model_config, dataset_config, trainer, tmp_path, caplog
):
    del model_config["model"]["pretransform"]
    model_config["training"]["pre_encoded"] = True
    torch.manual_seed(0)
    model = create_model_from_config(model_config)
    wrapper = create_training_wrapper_from_config(model_config, model)
    batches = [(torch.randn(2, 96, 32), [{"prompt": {"source": "bass"}}] * 2)] * 2
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    callback = create_demo_callback_from_config(model_config, demo_dl=loader)
    with caplog.at_level(logging.WARNING, logger="mge_plugin"):
        trainer(max_steps=2, callbacks=[callback]).fit(wrapper, loader)
    assert "no demos: the model has no pretransform" in caplog.text
    assert not (tmp_path / "demos").exists()


def test_a_network_in_shards_is_heard_by_its_average_alone(model_config, dataset_config):
    wrapper, _, _ = build(model_config, dataset_config)
    wrapper.use_fsdp = True
    assert demo._obstacle(wrapper) is None
    wrapper.diffusion_ema = None
    assert "use_ema" in demo._obstacle(wrapper)


def test_other_ranks_make_none(model_config, dataset_config, trainer, tmp_path, monkeypatch):
    wrapper, loader, callback = build(model_config, dataset_config)
    run = trainer(max_steps=1, callbacks=[callback])
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run.fit(wrapper, loader)
    assert wrapper.global_step == 1
    assert callback.items is None
    assert not (tmp_path / "demos").exists()
