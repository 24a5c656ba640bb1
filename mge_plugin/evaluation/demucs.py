"""Demucs (arXiv 2211.08553) as a system: the `demucs` package, with weights that the user has.

It separates into fixed sources: bass, drums, other and vocals, htdemucs_6s guitar and piano too.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import resample, to_channels
from mge_plugin.evaluation.segments import Estimate, Heard, Segment
from mge_plugin.evaluation.systems import in_form
from mge_plugin.files import checkpoint_fingerprint

EPS = 1e-8  # silence has no deviation to divide by
# what demucs raises for weights that are absent, damaged, of another version or not to be fetched;
# it ends the process where the package of quantised weights is missing
FAILURES = (RuntimeError, OSError, ImportError, LookupError, EOFError, ValueError, SystemExit)
FAILURES += (pickle.UnpicklingError, AssertionError)


class Demucs:
    """A model of the package and its function that applies one, without random shifts."""

    name = "demucs"

    def __init__(
        self, model: Any, apply: Callable[..., Tensor], title: str, device: str, key: str = ""
    ) -> None:
        self.model, self.apply, self.title, self.device = model, apply, title, device
        self.key = key  # tells its weights from others

    @property
    def sources(self) -> list[str]:
        """Labels that it knows."""
        return list(self.model.sources)

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        """The sources that are wanted, and the sum of all its others."""
        for h in heard:
            self._check(h.segment)
        return [self._separated(h) for h in heard]

    def _check(self, segment: Segment) -> None:
        if unknown := [label for label in segment.wanted if label not in self.sources]:
            raise ValueError(
                f"{self.title} separates {', '.join(self.sources)}, not {', '.join(unknown)}"
            )

    def _separated(self, heard: Heard) -> Estimate:
        rate = self.model.samplerate
        audio = to_channels(heard.mixture, self.model.audio_channels)
        made = self._apply(torch.from_numpy(resample(audio, heard.segment.sample_rate, rate)))
        stems = dict(zip(self.sources, made, strict=True))
        wanted = [stems.pop(label) for label in heard.segment.wanted]
        parts = [torch.stack(stem).sum(dim=0).numpy() for stem in (wanted, list(stems.values()))]
        return Estimate(*(in_form(part, rate, heard) for part in parts))

    @torch.no_grad()
    def _apply(self, mixture: Tensor) -> Tensor:
        """(channel, samples) to (source, channel, samples), at one level, as the package does."""
        mono = mixture.mean(dim=0)
        mean, std = mono.mean(), mono.std() + EPS
        normal = ((mixture - mean) / std)[None]
        return self.apply(self.model, normal, shifts=0, device=self.device)[0].cpu() * std + mean


def open_demucs(where: str, device: str) -> Demucs:
    """By a name that demucs knows, a folder of weights, or FOLDER/NAME where it holds several."""
    try:
        from demucs.apply import apply_model
        from demucs.pretrained import get_model
    except ImportError as error:
        raise ConfigError(
            f"demucs: the package cannot be imported ({error}); pip install demucs"
        ) from error
    name, repo = _named(where)
    try:
        return Demucs(get_model(name, repo), apply_model, name, device, _key(name, repo))
    except FAILURES as error:
        raise ConfigError(
            f"demucs {where}: its weights cannot be opened ({_reason(error)}); needed are a name "
            "that demucs fetches by itself when online (htdemucs, htdemucs_ft, htdemucs_6s, ...), "
            "or a folder with the .th file, or the .yaml and the .th files that it names"
        ) from error


def _named(where: str) -> tuple[str, Path | None]:
    """The model's name, and the folder that its weights are in, None for demucs' own place."""
    path = Path(where)
    if path.is_dir():
        return _only_model(path), path
    if path.parent.is_dir() and path.name != where:
        return path.name, path.parent
    if path.name != where and not where.startswith("hf://"):
        raise ConfigError(f"demucs {where}: no such folder, nor {path.parent}")
    return where, None


def _key(name: str, repo: Path | None) -> str:
    """Of the name and, in a folder, the files: other weights of one name are scored anew."""
    files = [] if repo is None else sorted(repo.glob("*.th"))
    return " ".join([name, *map(checkpoint_fingerprint, files)])


def _only_model(folder: Path) -> str:
    """Of a bag (NAME.yaml, whose parts are .th files too) or a model (NAME-CHECKSUM.th)."""
    bags, models = (sorted(folder.glob(f"*{end}")) for end in (".yaml", ".th"))
    names = [path.stem for path in bags] or [path.stem.rsplit("-", 1)[0] for path in models]
    if not models:
        raise ConfigError(f"demucs {folder}: no weights, expected .th files (and a .yaml of them)")
    if len(names) > 1:
        raise ConfigError(
            f"demucs {folder}: expected one model, found {', '.join(names)}; say which: "
            f"{folder / names[0]}"
        )
    return names[0]


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it gave up, for the reason above"
    return str(error) or type(error).__name__
