"""Demos shown by whichever logger is on; the files on disk are written before."""

from pathlib import Path

import numpy as np
import soundfile as sf
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from stable_audio_tools.training.utils import log_audio, log_image


def show_demo(logger: Logger, wav: Path, png: Path, name: str, step: int) -> None:
    """Give a demo's sound and picture to a logger: TensorBoard, wandb or comet.

    Loggers that hold only numbers get nothing.
    """
    if isinstance(logger, TensorBoardLogger):
        _to_tensorboard(logger, wav, png, name, step)
    else:  # SAT's functions know wandb and comet, and leave others alone
        log_audio(logger, name, str(wav), sf.info(wav).samplerate)
        log_image(logger, f"{name}_spectrogram", str(png))


def _to_tensorboard(logger: TensorBoardLogger, wav: Path, png: Path, name: str, step: int) -> None:
    audio, sample_rate = sf.read(wav, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)  # TensorBoard plays one channel
    logger.experiment.add_audio(name, mono, step, sample_rate)
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    logger.experiment.add_image(f"{name}_spectrogram", pixels, step, dataformats="HWC")
