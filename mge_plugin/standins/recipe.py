"""The recipe of small weights: from a seed to a model, step by step.

    songs ---> autoencoder (fit-mel) ---> latents (encode) ---> denoiser ---> model.safetensors
      '------> text-audio encoder (fit-text-audio) --'

Every step writes a file, so a run that was stopped resumes with the step it was in.
"""

import copy
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mge_plugin.config import read_json
from mge_plugin.files import shipped_file, write_file
from minislakh import Sound, write_corpus
from minislakh.sound import find_soundfont

logger = logging.getLogger(__name__)

_CONFIG = "mge_dit_minislakh.json"  # of model_configs
_SHIPPED = ("sampling", "card", "input_level")  # keys that model.json has beside the config's
_SEED = 42  # of the text-audio encoder's first weights, as `mge fit-text-audio` has it


# A second soundfont, used if it is installed (Debian package musescore-general-soundfont).
_MUSESCORE = Path("/usr/share/sounds/sf3/MuseScore_General.sf3")

# Changes of the config's `training`. Users request a source by its label alone, and its own sound
# would reveal whether it is in the mixture at all; mixtures are also requested by text. At level 1
# the source must be decided from mixture and prompt alone: half of the items with a mixture.
_TRAINING: Mapping[str, Any] = {
    "conditioning": {"mixture": "mix", "submixture": "mix", "source": "text"},
    "cfg_dropout_prob": 0.2,
    "timesteps": {
        "levels": "stratified",
        "patterns": {"none": 1.5, "mixture": 5, "submixture": 1.5, "source": 0.5},
        "densities": {"mixture": {"at_one": 0.5}},
    },
}


@dataclass(frozen=True)
class RecipeSize:
    """How much each step does."""

    songs: int = 600
    seconds: float = 40.0  # of a song
    windows: int = 1600  # that the autoencoder is fitted to
    whitening: float = 0.5
    text_audio_steps: int = 1000
    text_audio_batch: int = 32
    steps: int = 17_500  # of the denoiser
    rate: float = 1.2e-3  # its highest learning rate
    batch_size: int = 16
    precision: str = "bf16-mixed"


def make_weights(
    work: Path, out: Path, device: str, seed: int = 1, size: RecipeSize | None = None
) -> Path:
    """Make everything in `work` and write `model.json` and `model.safetensors` (half) in `out`.

    The test songs of seed 0 are those of the published tables: keep another seed for training.
    """
    from mge_plugin.standins.fit import fit_denoiser, halve

    size, config = size or RecipeSize(), read_json(shipped_file(f"model_configs/{_CONFIG}"))
    corpus = write_corpus(
        work / "corpus",
        size.songs,
        size.seconds,
        seed,
        sound=_sound(),
        workers=os.cpu_count() or 1,
    )
    data = _Corpus(corpus, work)
    autoencoder = _once(
        work / "autoencoder.safetensors", lambda path: _fit_mel(config, data.tracks(), path, size)
    )
    text_audio = _once(
        work / "text_audio.safetensors",
        lambda path: _fit_text_audio(config, data.triplets(), path, size, device),
    )
    trainable = _with_text_audio(config, text_audio)
    _encode(trainable, autoencoder, data, device)
    trained = fit_denoiser(
        _training_config(trainable, size),
        data.latents(),
        autoencoder,
        work / "denoiser",
        steps=size.steps,
        batch_size=size.batch_size,
        precision=size.precision,
        device=device,
    )
    halve(trained / "model.safetensors", out / "model.safetensors")
    shipped = read_json(shipped_file("weights/minislakh/model.json"))
    config |= {key: shipped[key] for key in _SHIPPED if key in shipped}
    write_file(out / "model.json", (json.dumps(config, indent=4) + "\n").encode())
    return out


def _sound() -> Sound:
    """Half of the songs with effects, 30 % of bass, drums, guitar and piano alone."""
    if not _MUSESCORE.is_file():
        logger.warning("%s is not installed: one soundfont instead of two", _MUSESCORE)
        return Sound((), effects=0.5, core=0.3)
    return Sound((find_soundfont(), _MUSESCORE), effects=0.5, core=0.3)


@dataclass(frozen=True)
class _Corpus:
    """The dataset configs of the corpus."""

    path: Path
    work: Path

    def _config(self, kind: str, **options: Any) -> dict[str, Any]:
        entry = {"id": "minislakh", "type": "slakh", "path": str(self.path), "split": "train"}
        return {"dataset_type": kind, "seed": 0, "datasets": [entry]} | options

    def triplets(self) -> dict[str, Any]:
        """For the text-audio encoder, read from decoded stems."""
        decoded = str(self.work / "decoded")
        return self._config("mge_triplets", cache_dir=decoded, epoch_items=100_000)

    def tracks(self) -> dict[str, Any]:
        """For the autoencoder: sources as often as mixtures and submixtures together."""
        return self.triplets() | {
            "dataset_type": "mge_tracks",
            "epoch_items": 1_000_000,
            "augment": {"gain_db": [-12.0, 3.0]},
            "tracks": {"mixture": 1, "submixture": 1, "source": 2},
        }

    def songs(self) -> dict[str, Any]:
        """To be encoded."""
        return self._config("mge_triplets")

    def latents(self) -> dict[str, Any]:
        """For the denoiser: half of the mixtures are partial sums, 15 % of the sources absent."""
        store = str(self.work / "latents")
        return {
            "dataset_type": "mge_latents",
            "seed": 0,
            "epoch_items": 1_000_000,
            "p_partial": 0.5,
            "datasets": [{"id": "minislakh", "path": store, "split": "train"}],
            "source": {"choose": "labels", "p_absent": 0.15},
        }


def _with_text_audio(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The model config whose text-audio encoder has these weights."""
    changed = copy.deepcopy(dict(config))
    for entry in changed["model"]["conditioning"]["configs"]:
        entry["config"]["ckpt_path"] = str(weights)
    return changed


def _training_config(config: Mapping[str, Any], size: RecipeSize) -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    changed["training"] |= _TRAINING
    sections = changed["training"]["optimizer_configs"]["diffusion"]
    sections["optimizer"]["config"]["lr"] = size.rate
    sections["scheduler"]["config"] |= {
        "max_lr": size.rate,
        "total_steps": size.steps + 1,  # Lightning asks for one more
    }
    return changed


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.is_file():
        make(path)
    return path


def _fit_mel(
    config: Mapping[str, Any], tracks: Mapping[str, Any], path: Path, size: RecipeSize
) -> None:
    from mge_plugin.standins.fit import fit_mel_file

    fit = fit_mel_file(config, tracks, path, windows=size.windows, whitening=size.whitening)
    logger.info("the latents keep %.1f %% of the spectrograms' variance", 100 * fit.kept)


def _fit_text_audio(
    config: Mapping[str, Any],
    triplets: Mapping[str, Any],
    path: Path,
    size: RecipeSize,
    device: str,
) -> None:
    from mge_plugin.standins.fit import fit_text_audio_file

    fit_text_audio_file(
        config,
        triplets,
        path,
        steps=size.text_audio_steps,
        batch_size=size.text_audio_batch,
        device=device,
        seed=_SEED,
    )


def _encode(config: Mapping[str, Any], autoencoder: Path, data: _Corpus, device: str) -> None:
    import torch

    from mge_plugin.data.latents.encode import (
        Ranks,
        Settings,
        create_encoder,
        encode_corpora,
        read_corpora,
    )
    from mge_plugin.data.latents.store import Store

    dataset_config = data.work / "songs.json"
    write_file(dataset_config, json.dumps(data.songs()).encode())
    settings = Settings(batch_size=1, chunk=10.0, clap_every=8.0, partial_sums=1)
    encoder = create_encoder(config, autoencoder, settings, torch.device(device))
    store = Store(data.work / "latents")
    report = encode_corpora(read_corpora(dataset_config), encoder, store, Ranks())
    if report.left_out:
        raise ValueError(f"songs that cannot be encoded: {report.left_out}")
