"""How the weights in weights/minislakh were made: from a seed to a model, step by step.

    corpus ---> autoencoder (fit-mel) ---> latents (encode) ---> denoiser ---> model.safetensors
       '------> text-audio encoder (fit-text-audio) --'

Every step leaves a file, so a run that was stopped goes on with the step that it was in.
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
from minislakh import write_corpus

logger = logging.getLogger(__name__)

_CONFIG = "mge_dit_minislakh.json"  # of model_configs
_SEED = 42  # of the text-audio encoder's first weights, as `mge fit-text-audio` has it


@dataclass(frozen=True)
class Phase:
    """A training of the denoiser, which goes on from the one before."""

    name: str  # of its folder
    steps: int
    rate: float  # the highest learning rate
    p_absent: float = 0.1
    training: Mapping[str, Any] = field(default_factory=dict)  # changes of the config's section
    patterns: Mapping[str, float] | None = None  # what is given how often; the config's if not said


# Users ask by label alone, and a source's own sound tells whether it is there at all. A mixture's
# labels are heard too in the last phase, since new music is asked for by text.
BY_LABEL: Mapping[str, Any] = {"conditioning": {"source": "text"}, "cfg_dropout_prob": 0.3}
_BY_TEXT: Mapping[str, Any] = {
    **BY_LABEL,
    "conditioning": {"mixture": "mix", "submixture": "mix", "source": "text"},
}
_MUSIC: Mapping[str, float] = {"none": 1.5, "mixture": 3, "submixture": 2, "source": 0.5}
_MORE_MUSIC: Mapping[str, float] = {**_MUSIC, "none": 2.5}
_PHASES = (
    Phase("denoiser", steps=8000, rate=8e-4),
    Phase("by_label", steps=800, rate=3e-4, p_absent=0.4, training=BY_LABEL),
    Phase("longer", steps=7500, rate=6e-4, p_absent=0.25, training=BY_LABEL, patterns=_MUSIC),
    Phase("by_text", steps=1200, rate=3e-4, p_absent=0.25, training=_BY_TEXT, patterns=_MORE_MUSIC),
)


@dataclass(frozen=True)
class RecipeSize:
    """How much each step does; the defaults made the weights that ship."""

    songs: int = 300
    seconds: float = 40.0  # a song
    windows: int = 1600  # that the autoencoder is fitted to
    whitening: float = 0.5
    text_audio_steps: int = 1000
    text_audio_batch: int = 32
    phases: tuple[Phase, ...] = _PHASES  # of the denoiser
    batch_size: int = 16
    precision: str = "bf16-mixed"


def make_weights(
    work: Path, out: Path, device: str, seed: int = 0, size: RecipeSize | None = None
) -> Path:
    """Make everything in `work` and write `model.json` and `model.safetensors` (half) in `out`."""
    from mge_plugin.standins.fit import fit_denoiser, halve

    size, config = size or RecipeSize(), read_json(shipped_file(f"model_configs/{_CONFIG}"))
    corpus = write_corpus(
        work / "corpus", size.songs, size.seconds, seed, workers=os.cpu_count() or 1
    )
    data = _Corpus(corpus, work)
    autoencoder = _once(
        work / "autoencoder.safetensors", lambda path: _fit_mel(config, data.tracks(), path, size)
    )
    text_audio = _once(
        work / "text_audio.safetensors",
        lambda path: _fit_text_audio(config, data.triplets(), path, size, device),
    )
    heard = _with_text_audio(config, text_audio)
    _encode(heard, autoencoder, data, work / "latents", device)
    weights = autoencoder
    for number, phase in enumerate(size.phases):
        trained = fit_denoiser(
            _of_phase(heard, phase, seed=number),
            data.latents(work / "latents", phase.p_absent, seed=number),
            weights,
            work / phase.name,
            steps=phase.steps,
            batch_size=size.batch_size,
            precision=size.precision,
            device=device,
        )
        weights = trained / "model.safetensors"
    halve(weights, out / "model.safetensors")
    write_file(out / "model.json", (json.dumps(config, indent=4) + "\n").encode())
    return out


@dataclass(frozen=True)
class _Corpus:
    """The dataset configs of one corpus."""

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

    def latents(self, store: Path, p_absent: float, seed: int) -> dict[str, Any]:
        """For the denoiser: a share of the items asks for what does not sound."""
        return {
            "dataset_type": "mge_latents",
            "seed": seed,
            "epoch_items": 1_000_000,
            "datasets": [{"id": "minislakh", "path": str(store), "split": "train"}],
            "source": {"choose": "labels", "p_absent": p_absent},
        }


def _with_text_audio(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The model config whose text-audio encoder begins with these weights."""
    changed = copy.deepcopy(dict(config))
    for entry in changed["model"]["conditioning"]["configs"]:
        entry["config"]["ckpt_path"] = str(weights)
    return changed


def _of_phase(config: Mapping[str, Any], phase: Phase, seed: int) -> dict[str, Any]:
    """The config that trains a phase; its learning rate ends low after the phase's last step."""
    changed = copy.deepcopy(dict(config))
    changed["training"] |= {"seed": seed, **phase.training}
    if phase.patterns is not None:
        changed["training"]["timesteps"]["patterns"] = dict(phase.patterns)
    sections = changed["training"]["optimizer_configs"]["diffusion"]
    sections["optimizer"]["config"]["lr"] = phase.rate
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


def _encode(
    config: Mapping[str, Any], autoencoder: Path, data: _Corpus, store: Path, device: str
) -> None:
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
    encoder = create_encoder(config, autoencoder, Settings(batch_size=16), torch.device(device))
    report = encode_corpora(read_corpora(dataset_config), encoder, Store(store), Ranks())
    if report.left_out:
        raise ValueError(f"songs that cannot be encoded: {report.left_out}")
