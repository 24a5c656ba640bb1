"""The recipe of the shipped weights: from a seed to a model, step by step.

    plain songs --+--> autoencoder (fit-mel), text-audio encoder (fit-text-audio)
                  |          |
                  +--> latents (encode) --> phases 1 to 4 of the denoiser --+
    varied songs ----> latents (encode) ------------------------> phases 5, 6 --> model.safetensors

Every step writes a file, so a run that was stopped resumes with the step it was in.
"""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mge_plugin.config import read_json
from mge_plugin.data.latents.encode import (
    Ranks,
    Settings,
    create_encoder,
    encode_corpora,
    read_corpora,
)
from mge_plugin.data.latents.store import Store
from mge_plugin.files import shipped_file, write_json
from mge_plugin.standins.fit import fit_denoiser, fit_mel_file, fit_text_audio_file, halve
from minislakh import Sound, write_corpus
from minislakh.sound import find_soundfont

logger = logging.getLogger(__name__)

_CONFIG = "mge_dit_minislakh.json"  # of model_configs
_SHIPPED = ("sampling", "card", "input_level")  # keys that model.json has beside the config's
_SEED = 42  # of the text-audio encoder's first weights, as `mge fit-text-audio` has it

# A second soundfont, used if it is installed (Debian package musescore-general-soundfont).
_MUSESCORE = Path("/usr/share/sounds/sf3/MuseScore_General.sf3")


@dataclass(frozen=True)
class _Songs:
    """A corpus and how it is encoded and drawn from; the test songs of seed 0 are held out."""

    seed: int
    varied: bool = False  # two soundfonts, effects, 30 % bass, drums, guitar and piano alone
    encoding: Mapping[str, Any] = field(default_factory=dict)
    drawing: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = _Songs(seed=0, encoding={"batch_size": 16})
_VARIED = _Songs(
    seed=1,
    varied=True,
    encoding={"batch_size": 1, "chunk": 10.0, "clap_every": 8.0, "partial_sums": 1},
    drawing={"p_partial": 0.5},
)
_SONGS = {"plain": _PLAIN, "varied": _VARIED, "more": replace(_VARIED, seed=2)}


@dataclass(frozen=True)
class _Phase:
    """A training of the denoiser that continues from the phase before."""

    name: str  # of its folder
    steps: int
    rate: float  # the highest learning rate
    p_absent: float  # share of the items that request a source that is not in the mixture
    patterns: Mapping[str, float]  # how often which track is given
    training: Mapping[str, Any] = field(default_factory=dict)  # changes of the config's `training`
    at_one: float = 0.0  # share of the items with a given mixture at level 1
    songs: tuple[str, ...] = ("plain",)
    precision: str = "bf16-mixed"


# Users request a source by its label alone, and its own sound would reveal whether it is in the
# mixture at all; from the fourth phase on mixtures are also requested by text.
_BY_LABEL: Mapping[str, Any] = {"conditioning": {"source": "text"}, "cfg_dropout_prob": 0.3}
_BY_TEXT: Mapping[str, Any] = {
    "conditioning": {"mixture": "mix", "submixture": "mix", "source": "text"},
    "cfg_dropout_prob": 0.3,
}
_FIRST = {"none": 1.0, "mixture": 4.0, "submixture": 1.0, "source": 0.5}
_MUSIC = {"none": 1.5, "mixture": 3.0, "submixture": 2.0, "source": 0.5}
_SEPARATION = {"none": 1.5, "mixture": 5.0, "submixture": 1.5, "source": 0.5}
_LEVEL_ONE = _Phase(  # at level 1 the source must be decided from mixture and prompt alone
    "level_one",
    3000,
    6e-4,
    0.15,
    _SEPARATION,
    {**_BY_TEXT, "cfg_dropout_prob": 0.2},
    at_one=0.6,
    songs=("varied",),
    precision="32-true",
)
_PHASES = (
    _Phase("denoiser", 8000, 8e-4, 0.1, _FIRST),
    _Phase("by_label", 800, 3e-4, 0.4, _FIRST, _BY_LABEL),
    _Phase("longer", 7500, 6e-4, 0.25, _MUSIC, _BY_LABEL),
    _Phase("by_text", 1200, 3e-4, 0.25, _MUSIC | {"none": 2.5}, _BY_TEXT),
    _LEVEL_ONE,
    # With 240 songs the error at level 1 was 0.50 on them and 0.63 on others.
    replace(_LEVEL_ONE, name="more_songs", steps=2000, songs=("varied", "more")),
)


@dataclass(frozen=True)
class RecipeSize:
    """How much each step does; the defaults made the shipped weights."""

    songs: int = 300  # of each corpus
    seconds: float = 40.0  # of a song
    windows: int = 1600  # that the autoencoder is fitted to
    whitening: float = 0.5
    text_audio_steps: int = 1000
    text_audio_batch: int = 32
    phases: tuple[_Phase, ...] = _PHASES  # of the denoiser
    batch_size: int = 16


def make_weights(work: Path, out: Path, device: str, size: RecipeSize | None = None) -> Path:
    """Make everything in `work` and write `model.json` and `model.safetensors` (half) in `out`."""
    size, config = size or RecipeSize(), read_json(shipped_file(f"model_configs/{_CONFIG}"))
    corpora = {name: _Corpus(name, songs, work / name, size) for name, songs in _SONGS.items()}
    plain = corpora["plain"]
    autoencoder = _once(
        work / "autoencoder.safetensors", lambda path: _fit_mel(config, plain.tracks(), path, size)
    )
    text_audio = _once(
        work / "text_audio.safetensors",
        lambda path: _fit_text_audio(config, plain.triplets(), path, size, device),
    )
    trainable = _with_text_audio(config, text_audio)
    for corpus in corpora.values():
        corpus.encode(trainable, autoencoder, device)
    weights = autoencoder
    for number, phase in enumerate(size.phases):
        trained = fit_denoiser(
            _training_config(trainable, phase, seed=number),
            _latents([corpora[name] for name in phase.songs], phase.p_absent, seed=number),
            weights,
            work / phase.name,
            steps=phase.steps,
            batch_size=size.batch_size,
            precision=phase.precision,
            device=device,
        )
        weights = trained / "model.safetensors"
    halve(weights, out / "model.safetensors")
    shipped = read_json(shipped_file("weights/minislakh/model.json"))
    config |= {key: shipped[key] for key in _SHIPPED if key in shipped}
    write_json(out / "model.json", config, 4)
    return out


class _Corpus:
    """A corpus in a folder, written there if it is not complete, and its dataset configs."""

    def __init__(self, name: str, songs: _Songs, folder: Path, size: RecipeSize) -> None:
        self.name, self.songs, self.folder = name, songs, folder
        self.path = write_corpus(
            folder / "songs",
            size.songs,
            size.seconds,
            songs.seed,
            sound=_varied_sound() if songs.varied else Sound(),
            workers=os.cpu_count() or 1,
        )

    def _config(self, kind: str, **options: Any) -> dict[str, Any]:
        entry = {"id": self.name, "type": "slakh", "path": str(self.path), "split": "train"}
        return {"dataset_type": kind, "seed": 0, "datasets": [entry]} | options

    def triplets(self) -> dict[str, Any]:
        """For the text-audio encoder, read from decoded stems."""
        decoded = str(self.folder / "decoded")
        return self._config("mge_triplets", cache_dir=decoded, epoch_items=100_000)

    def tracks(self) -> dict[str, Any]:
        """For the autoencoder: sources as often as mixtures and submixtures together."""
        return self.triplets() | {
            "dataset_type": "mge_tracks",
            "epoch_items": 1_000_000,
            "augment": {"gain_db": [-12.0, 3.0]},
            "tracks": {"mixture": 1, "submixture": 1, "source": 2},
        }

    def encode(self, config: Mapping[str, Any], autoencoder: Path, device: str) -> None:
        """Encode the songs that are not encoded yet."""
        dataset_config = self.folder / "songs.json"
        write_json(dataset_config, self._config("mge_triplets"))
        settings = Settings(**self.songs.encoding)
        encoder = create_encoder(config, autoencoder, settings, torch.device(device))
        store = Store(self.folder / "latents")
        report = encode_corpora(read_corpora(dataset_config), encoder, store, Ranks())
        if report.left_out:
            raise ValueError(f"songs that cannot be encoded: {report.left_out}")


def _latents(corpora: Sequence[_Corpus], p_absent: float, seed: int) -> dict[str, Any]:
    """The dataset config of a phase, which draws from the latents of these corpora."""
    return {
        "dataset_type": "mge_latents",
        "seed": seed,
        "epoch_items": 1_000_000,
        "datasets": [
            {"id": corpus.name, "path": str(corpus.folder / "latents"), "split": "train"}
            for corpus in corpora
        ],
        "source": {"choose": "labels", "p_absent": p_absent},
    } | dict(corpora[0].songs.drawing)


def _varied_sound() -> Sound:
    """Half of the songs with effects, 30 % of bass, drums, guitar and piano alone."""
    if not _MUSESCORE.is_file():
        logger.warning("%s is not installed: one soundfont instead of two", _MUSESCORE)
        return Sound((), effects=0.5, core=0.3)
    return Sound((find_soundfont(), _MUSESCORE), effects=0.5, core=0.3)


def _with_text_audio(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The model config whose text-audio encoder has these weights."""
    changed = copy.deepcopy(dict(config))
    for entry in changed["model"]["conditioning"]["configs"]:
        entry["config"]["ckpt_path"] = str(weights)
    return changed


def _training_config(config: Mapping[str, Any], phase: _Phase, seed: int) -> dict[str, Any]:
    """The config that trains a phase; its learning rate ends low after the phase's last step."""
    changed = copy.deepcopy(dict(config))
    changed["training"] |= {"seed": seed, **phase.training}
    changed["training"]["timesteps"]["patterns"] = dict(phase.patterns)
    if phase.at_one:
        changed["training"]["timesteps"]["densities"] = {"mixture": {"at_one": phase.at_one}}
    sections = changed["training"]["optimizer_configs"]["diffusion"]
    sections["optimizer"]["config"]["lr"] = phase.rate
    sections["scheduler"]["config"] |= {
        "max_lr": phase.rate,
        "total_steps": phase.steps + 1,  # Lightning counts one more
    }
    return changed


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.is_file():
        make(path)
    return path


def _fit_mel(
    config: Mapping[str, Any], tracks: Mapping[str, Any], path: Path, size: RecipeSize
) -> None:
    fit = fit_mel_file(config, tracks, path, windows=size.windows, whitening=size.whitening)
    logger.info("the latents keep %.1f %% of the spectrograms' variance", 100 * fit.kept)


def _fit_text_audio(
    config: Mapping[str, Any],
    triplets: Mapping[str, Any],
    path: Path,
    size: RecipeSize,
    device: str,
) -> None:
    fit_text_audio_file(
        config,
        triplets,
        path,
        steps=size.text_audio_steps,
        batch_size=size.text_audio_batch,
        device=device,
        seed=_SEED,
    )
