"""What is judged: the model, floors and ceilings in the same run, and anybody's estimates.

A system gets segments (`Heard`) and gives an `Estimate` for each: of extract the source, of add the
new sources together, of generate and compose the mixture.

Demucs (arXiv 2211.08553) as a system: the `demucs` package, with weights that the user has.

It separates into fixed sources: bass, drums, other and vocals, htdemucs_6s guitar and piano too.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import AudioError, fit_length, read_audio, resample, to_channels
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.evaluation.segments import Estimate, Heard, Segment, listen
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.inference.denoiser import Engine, Item
from mge_plugin.inference.pipeline import Pipeline, Studio
from mge_plugin.inference.presence import sounding
from mge_plugin.inference.request import Request, Result, Sampling, Task
from mge_plugin.inference.sampling import Callback, check_sampler
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import Track


class System(Protocol):
    """Something that makes estimates."""

    name: str

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]: ...


class _TrackKeeper(Engine):
    """An engine that keeps what it made of all tracks: a result has only the prompted one."""

    kept: Tensor  # (b, k, c, n), a row a candidate

    def denoise(
        self,
        task: Task,
        items: Sequence[Item],
        sampling: Sampling,
        callback: Callback | None = None,
    ) -> Tensor:
        self.kept = super().denoise(task, items, sampling, callback)
        return self.kept


class Model:
    """The three-track model: prompts "The sound of the {label}", a seed for each segment."""

    name = "model"

    def __init__(self, pipeline: Pipeline, sampling: Sampling) -> None:
        check_sampler(sampling.sampler, pipeline.model.diffusion_objective)
        window = pipeline.engine.frames * pipeline.engine.ratio
        self.engine = _TrackKeeper(pipeline.model, window, pipeline.device)
        self.studio, self.sampling = Studio(self.engine, pipeline.channels), sampling

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        if not heard:
            return []
        results = self.studio.run([self._request(h) for h in heard], self.sampling, None)
        return [
            Estimate(self._chosen(h, result.audio), self._submixture(h, result, i))
            for i, (h, result) in enumerate(zip(heard, results, strict=True))
        ]

    def _request(self, heard: Heard) -> Request:
        segment = heard.segment
        one = (label_prompt(segment.wanted),)
        each = tuple(label_prompt(label) for label in segment.wanted)
        prompts = one if segment.task in ("extract", "generate") else each
        common = {"seed": segment_seed(segment.id, self.sampling.seed)}
        if segment.task in ("generate", "compose"):
            seconds = segment.samples / segment.sample_rate
            return Request(segment.task, prompts, seconds=seconds, **common)
        return Request(segment.task, prompts, heard.given, segment.sample_rate, **common)

    def _chosen(self, heard: Heard, audio: dict[str, np.ndarray]) -> np.ndarray:
        if heard.segment.task == "add":
            return audio["mixture"] - heard.given
        made = audio["source" if heard.segment.task == "extract" else "mixture"]
        return fit_length(made, heard.segment.samples)

    def _submixture(self, heard: Heard, result: Result, number: int) -> np.ndarray | None:
        """What the model made beside the source; None if the source is no longer as it made it.

        The residual of a result is the mixture without the source, and always fits.
        """
        segment, sampling = heard.segment, self.sampling
        if segment.task != "extract" or sampling.refine != "none" or sampling.gate:
            return None
        chosen = result.info["tracks"]["source"].get("chosen", 0)
        latents = self.engine.kept[number * sampling.candidates + chosen, Track.SUBMIXTURE]
        rate = self.engine.model.sample_rate
        audio = self.engine.decode(latents, -(-segment.samples * rate // segment.sample_rate))
        audio = _in_form(audio, rate, heard)
        return audio * sounding(heard.mixture, segment.sample_rate)  # as the source is silenced


class Mixture:
    """The floor of doing nothing: of extract the mixture, of add nothing new."""

    name = "mixture"

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        given = [h.mixture if h.segment.task == "extract" else 0 * h.mixture for h in heard]
        return [Estimate(audio) for audio in given]


class Silence:
    """The floor of giving nothing."""

    name = "silence"

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        return [Estimate(np.zeros_like(h.mixture)) for h in heard]


class OtherStem:
    """The floor of add: what is wanted, but of another segment, drawn by the segment's id."""

    name = "random stem"

    def __init__(self, segments: Sequence[Segment], corpora: Sequence[Corpus]) -> None:
        self.segments = segments
        self.songs = {(c.config.id, s.id): s for c in corpora for s in c.songs}

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        return [Estimate(self._other(h)) for h in heard]

    def _other(self, heard: Heard) -> np.ndarray:
        own = heard.segment
        alike = [s for s in self.segments if s.wanted == own.wanted and s.id != own.id]
        if not alike:
            raise ValueError("a random stem: there is no other segment of its kind")
        other = alike[segment_seed(own.id, 0) % len(alike)]
        return listen(other, self.songs[other.corpus, other.song], len(heard.mixture)).truth


class RoundTrip:
    """The ceiling of a latent model: the truth (and the rest of it) through the autoencoder."""

    name = "round trip"

    def __init__(self, pipeline: Pipeline) -> None:
        self.engine = pipeline.engine

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        return [self._coded(h) for h in heard]

    def _coded(self, heard: Heard) -> Estimate:
        task = heard.segment.task
        wanted = heard.truth if task in ("extract", "add") else heard.mixture
        rest = self._through(heard.mixture - heard.truth) if task == "extract" else None
        return Estimate(self._through(wanted), rest)

    def _through(self, audio: np.ndarray) -> np.ndarray:
        return self.engine.decode(self.engine.encode(audio), audio.shape[1])


class RatioMask:
    """An oracle: the share of the true source's magnitude, applied to the mixture's STFT."""

    name = "ideal ratio mask"
    frame = 1024

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        return [Estimate(self._masked(h.mixture, h.truth)) for h in heard]

    def _masked(self, mixture: np.ndarray, truth: np.ndarray) -> np.ndarray:
        window = torch.hann_window(self.frame)
        x, s, r = (
            torch.stft(torch.from_numpy(a), self.frame, window=window, return_complex=True)
            for a in (mixture, truth, mixture - truth)
        )
        mask = s.abs() / (s.abs() + r.abs()).clamp_min(1e-8)
        made = torch.istft(mask * x, self.frame, window=window, length=mixture.shape[1])
        return made.numpy()


class Estimates:
    """A folder of anybody's: `{segment id}.wav` or `.flac`, in folders as the ids say."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder, self.name = folder, name or folder.name

    def estimate(self, heard: Sequence[Heard]) -> list[Estimate]:
        return [Estimate(self._read(h)) for h in heard]

    def _read(self, heard: Heard) -> np.ndarray:
        segment = heard.segment
        for suffix in (".wav", ".flac"):
            path = self.folder / f"{segment.id}{suffix}"
            if path.is_file():
                return _in_form(*read_audio(path), heard)
        raise AudioError("no estimate, neither .wav nor .flac", self.folder / segment.id)


def _in_form(audio: np.ndarray, sample_rate: int, heard: Heard) -> np.ndarray:
    """Audio at the rate, with the channels and of the length of a segment."""
    audio = resample(audio, sample_rate, heard.segment.sample_rate)
    return fit_length(to_channels(audio, len(heard.mixture)), heard.segment.samples)


def segment_seed(segment: str, seed: int) -> int:
    """The same noise for a segment whatever is judged beside it."""
    numbers = np.frombuffer(segment.encode(), dtype=np.uint8)
    return int(np.random.SeedSequence([seed, *numbers.tolist()]).generate_state(1, np.uint32)[0])


def paper_sampling(steps: int = 250, cfg_scale: float = 2.0, **options: object) -> Sampling:
    """The paper's: 250 DDIM steps, guidance 2, and what the model made as it is."""
    return replace(Sampling(steps, cfg_scale, refine="none", gate=False), **options)


_EPS = 1e-8  # silence has no deviation to divide by
# what demucs raises for weights that are absent, damaged, of another version or not to be fetched;
# it ends the process where the package of quantised weights is missing
_FAILURES = (RuntimeError, OSError, ImportError, LookupError, EOFError, ValueError, SystemExit)
_FAILURES += (pickle.UnpicklingError, AssertionError)


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
        return Estimate(*(_in_form(part, rate, heard) for part in parts))

    @torch.no_grad()
    def _apply(self, mixture: Tensor) -> Tensor:
        """(channel, samples) to (source, channel, samples), at one level, as the package does."""
        mono = mixture.mean(dim=0)
        mean, std = mono.mean(), mono.std() + _EPS
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
    except _FAILURES as error:
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
