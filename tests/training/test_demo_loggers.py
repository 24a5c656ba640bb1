"""Demos reach wandb, comet and TensorBoard; with no logger they stay on disk."""

import numpy as np
import pytest
from pytorch_lightning.loggers import CometLogger, CSVLogger, TensorBoardLogger, WandbLogger
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import (
    create_demo_callback_from_config,
    create_training_wrapper_from_config,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mge_plugin.data.audio import write_wav
from mge_plugin.report.pictures import spectrogram_panels_png
from mge_plugin.tracks import TASKS
from mge_plugin.training.demo import _show_demo

RATE = 16000


class Recorder:
    """Stands for an experiment: notes the calls, asks nothing of anyone."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def offline(base):
    """A logger of that class with a recorder as its experiment, no account needed."""

    class Offline(base):
        def __init__(self):
            self.recorder = Recorder()

        @property
        def experiment(self):
            return self.recorder

    return Offline()


@pytest.fixture
def files(tmp_path):
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    wav = write_wav(tmp_path / "00000003_add_cfg2.wav", audio, RATE)
    png = wav.with_suffix(".png")
    png.write_bytes(spectrogram_panels_png({"given submixture": audio, "made": audio}, RATE))
    return wav, png


def test_wandb_gets_both(files):
    logger = offline(WandbLogger)
    _show_demo(logger, *files, "add_cfg2", 3)
    logged = {}
    for name, (values,), _ in logger.experiment.calls:
        assert name == "log"
        logged |= values
    kinds = {key: type(value).__name__ for key, value in logged.items()}
    assert kinds == {"add_cfg2": "Audio", "add_cfg2_spectrogram": "Image"}


def test_comet_gets_both(files):
    logger = offline(CometLogger)
    _show_demo(logger, *files, "add_cfg2", 3)
    (audio, (path,), options), (image, (picture,), named) = logger.experiment.calls
    assert (audio, path, options["file_name"]) == ("log_audio", str(files[0]), "add_cfg2")
    assert options["sample_rate"] == RATE
    assert (image, picture, named["name"]) == ("log_image", str(files[1]), "add_cfg2_spectrogram")


def test_tensorboard_gets_both(files, tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="board")
    _show_demo(logger, *files, "add_cfg2", 3)
    logger.finalize("success")
    board = EventAccumulator(logger.log_dir)
    board.Reload()
    (audio,) = board.Audio("add_cfg2")
    (image,) = board.Images("add_cfg2_spectrogram")
    assert (audio.step, audio.sample_rate, audio.length_frames) == (3, RATE, RATE)
    assert (image.step, image.width) == (3, 840)


def test_a_logger_of_numbers_gets_none(files, tmp_path):
    logger = CSVLogger(str(tmp_path / "csv"))
    _show_demo(logger, *files, "add_cfg2", 3)
    assert not (tmp_path / "csv").exists()


def test_every_logger_of_a_run_is_asked(model_config, dataset_config, trainer, tmp_path):
    loader = create_dataloader_from_config(
        dataset_config,
        batch_size=2,
        num_workers=0,
        sample_rate=RATE,
        sample_size=model_config["sample_size"],
        audio_channels=1,
    )
    wrapper = create_training_wrapper_from_config(
        model_config, create_model_from_config(model_config)
    )
    callback = create_demo_callback_from_config(model_config, demo_dl=loader)
    boards = [TensorBoardLogger(str(tmp_path), name=name) for name in ("one", "two")]
    trainer(max_steps=1, callbacks=[callback], logger=boards).fit(wrapper, loader)
    demos = [name for name, task in TASKS.items() if not task.new_prompt]
    for logger in boards:
        board = EventAccumulator(logger.log_dir)
        board.Reload()
        assert set(board.Tags()["audio"]) == {f"{task}_cfg2" for task in demos}
        assert set(board.Tags()["images"]) == {f"{task}_cfg2_spectrogram" for task in demos}
