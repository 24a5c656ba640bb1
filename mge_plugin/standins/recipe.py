"""The recipe of the weights in weights/minislakh: from a seed to a model, step by step.

    songs ------> autoencoder (fit-mel), text-audio encoder (fit-text-audio)
      |               |
      '-----------> latents (encode) ------> denoiser, phases 1 to 4
    mixed songs --> latents (encode) ------> denoiser, phases 5 and 6 ------> model.safetensors

The mixed songs have several soundfonts, effects and partial sums. Every step writes a file, so a
run that was stopped resumes with the step it was in.
"""

import copy
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mge_plugin.config import read_json
from mge_plugin.files import shipped_file, write_file
from minislakh import Sound, write_corpus
from minislakh.sound import find_soundfont

logger = logging.getLogger(__name__)

_CONFIG = "mge_dit_minislakh.json"  # of model_configs
_SEED = 42  # of the text-audio encoder's first weights, as `mge fit-text-audio` has it


# A second soundfont for the mixed songs, used if it is installed (Debian package
# musescore-general-soundfont).
_MUSESCORE = Path("/usr/share/sounds/sf3/MuseScore_General.sf3")
_MIXED_SEED = 1  # so that no mixed song is a test song of the plain corpus


@dataclass(frozen=True)
class Phase:
    """A training of the denoiser, which starts from the weights of the one before."""

    name: str  # of its folder
    steps: int
    rate: float  # the highest learning rate
    p_absent: float = 0.1
    training: Mapping[str, Any] = field(default_factory=dict)  # changes of the config's section
    timesteps: Mapping[str, Any] = field(default_factory=dict)  # changes of `training.timesteps`
    mixed: bool = False  # on mixed songs, half of the items with partial sums
    constant: bool = False  # the rate stays at its highest after a warm-up of 50 steps
    precision: str = "bf16-mixed"


# Users request a source by its label alone, and its own sound would reveal whether it is in the
# mixture at all. Mixtures are also requested by text, since generation is.
BY_LABEL: Mapping[str, Any] = {"conditioning": {"source": "text"}, "cfg_dropout_prob": 0.3}
_BY_TEXT: Mapping[str, Any] = {
    **BY_LABEL,
    "conditioning": {"mixture": "mix", "submixture": "mix", "source": "text"},
}
_MUSIC: Mapping[str, float] = {"none": 1.5, "mixture": 3, "submixture": 2, "source": 0.5}
_MORE_MUSIC: Mapping[str, float] = {**_MUSIC, "none": 2.5}
# What the source is must be decided at level 1, from mixture and prompt alone.
_DECIDE: Mapping[str, Any] = {
    "patterns": {"none": 1.5, "mixture": 5, "submixture": 1.5, "source": 0.5},
    "densities": {"mixture": {"at_one": 0.6}},
}
_LAST: Mapping[str, Any] = {**_BY_TEXT, "cfg_dropout_prob": 0.2}
_EXACT = "32-true"  # these phases ran on a processor without bfloat16
_PHASES = (
    Phase("denoiser", 8000, 8e-4),
    Phase("by_label", 800, 3e-4, 0.4, BY_LABEL),
    Phase("longer", 7500, 6e-4, 0.25, BY_LABEL, {"patterns": _MUSIC}),
    Phase("by_text", 1200, 3e-4, 0.25, _BY_TEXT, {"patterns": _MORE_MUSIC}),
    Phase("decide", 450, 5e-4, 0.15, _LAST, _DECIDE, True, constant=True, precision=_EXACT),
    Phase("settle", 150, 5e-4, 0.15, _LAST, _DECIDE, True, precision=_EXACT),
)


@dataclass(frozen=True)
class RecipeSize:
    """How much each step does; the defaults made the weights that ship."""

    songs: int = 300  # of each corpus
    seconds: float = 40.0  # of a song
    windows: int = 1600  # that the autoencoder is fitted to
    whitening: float = 0.5
    text_audio_steps: int = 1000
    text_audio_batch: int = 32
    phases: tuple[Phase, ...] = _PHASES  # of the denoiser
    batch_size: int = 16


def make_weights(
    work: Path, out: Path, device: str, seed: int = 0, size: RecipeSize | None = None
) -> Path:
    """Make everything in `work` and write `model.json` and `model.safetensors` (half) in `out`."""
    from mge_plugin.standins.fit import fit_denoiser, halve

    size, config = size or RecipeSize(), read_json(shipped_file(f"model_configs/{_CONFIG}"))
    workers = os.cpu_count() or 1
    corpus = write_corpus(work / "corpus", size.songs, size.seconds, seed, workers=workers)
    plain = _Corpus(corpus, work, "latents", partial_sums=0)
    autoencoder = _once(
        work / "autoencoder.safetensors", lambda path: _fit_mel(config, plain.tracks(), path, size)
    )
    text_audio = _once(
        work / "text_audio.safetensors",
        lambda path: _fit_text_audio(config, plain.triplets(), path, size, device),
    )
    trainable = _with_text_audio(config, text_audio)
    corpus = write_corpus(
        work / "mixed_corpus",
        size.songs,
        size.seconds,
        seed + _MIXED_SEED,
        sound=_mixed_sound(),
        workers=workers,
    )
    mixed = _Corpus(corpus, work, "mixed_latents", partial_sums=1)
    for data in (plain, mixed):
        _encode(trainable, autoencoder, data, device)
    weights = autoencoder
    for number, phase in enumerate(size.phases):
        trained = fit_denoiser(
            _of_phase(trainable, phase, seed=number),
            (mixed if phase.mixed else plain).latents(phase, seed=number),
            weights,
            work / phase.name,
            steps=phase.steps,
            batch_size=size.batch_size,
            precision=phase.precision,
            device=device,
        )
        weights = trained / "model.safetensors"
    halve(weights, out / "model.safetensors")
    write_file(out / "model.json", (json.dumps(config, indent=4) + "\n").encode())
    return out


def _mixed_sound() -> Sound:
    """Half of the songs with effects, 30 % with bass, drums, guitar and piano alone."""
    if not _MUSESCORE.is_file():
        logger.warning("%s is not installed: one soundfont instead of two", _MUSESCORE)
        return Sound((), effects=0.5, core=0.3)
    return Sound((find_soundfont(), _MUSESCORE), effects=0.5, core=0.3)


@dataclass(frozen=True)
class _Corpus:
    """The dataset configs of one corpus."""

    path: Path
    work: Path
    store: str  # folder of its latents in `work`
    partial_sums: int

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

    def latents(self, phase: Phase, seed: int) -> dict[str, Any]:
        """For the denoiser: a share of the items requests what is not in the mixture."""
        store = str(self.work / self.store)
        return {
            "dataset_type": "mge_latents",
            "seed": seed,
            "epoch_items": 1_000_000,
            "p_partial": 0.5 if self.partial_sums else 0.0,
            "datasets": [{"id": "minislakh", "path": store, "split": "train"}],
            "source": {"choose": "labels", "p_absent": phase.p_absent},
        }


def _with_text_audio(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The model config whose text-audio encoder has these weights."""
    changed = copy.deepcopy(dict(config))
    for entry in changed["model"]["conditioning"]["configs"]:
        entry["config"]["ckpt_path"] = str(weights)
    return changed


def _of_phase(config: Mapping[str, Any], phase: Phase, seed: int) -> dict[str, Any]:
    """The config that trains a phase."""
    changed = copy.deepcopy(dict(config))
    changed["training"] |= {"seed": seed, **phase.training}
    changed["training"]["timesteps"] |= phase.timesteps
    sections = changed["training"]["optimizer_configs"]["diffusion"]
    sections["optimizer"]["config"]["lr"] = phase.rate
    if phase.constant:
        warm_up = {"start_factor": 0.02, "end_factor": 1.0, "total_iters": 50}
        sections["scheduler"] = {"type": "LinearLR", "config": warm_up}
    else:
        sections["scheduler"]["config"] |= {
            "max_lr": phase.rate,
            "total_steps": phase.steps + 1,  # Lightning asks for one more
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

    dataset_config = data.work / f"{data.store}.json"
    write_file(dataset_config, json.dumps(data.songs()).encode())
    every = 8.0 if data.partial_sums else 2.0
    settings = Settings(batch_size=1, chunk=10.0, clap_every=every, partial_sums=data.partial_sums)
    encoder = create_encoder(config, autoencoder, settings, torch.device(device))
    store = Store(data.work / data.store)
    report = encode_corpora(read_corpora(dataset_config), encoder, store, Ranks())
    if report.left_out:
        raise ValueError(f"songs that cannot be encoded: {report.left_out}")
