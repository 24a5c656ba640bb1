"""The systems that are scored: the model, floors and ceilings, Demucs, and folders of estimates.

A system gets segments as `Excerpt` and returns an `Estimate` of each: for extract the source, for
add the sum of the new sources, for generate and compose the mixture.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mge_plugin.config import ConfigError, read_json
from mge_plugin.data.audio import AudioError, fit_length, read_audio, resample, to_channels
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.evaluation.segments import Estimate, Excerpt, Segment, read_excerpt, segment_seed
from mge_plugin.files import checkpoint_fingerprint
from mge_plugin.inference.pipeline import Pipeline
from mge_plugin.inference.presence import sounding
from mge_plugin.inference.request import Audio, Finish, Request, Result, Sampling
from mge_plugin.inference.sampling import check_sampler
from mge_plugin.prompts import label_prompt, track_prompts
from mge_plugin.tracks import TASKS, Track


class System(Protocol):
    """Something that makes estimates."""

    name: str

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]: ...


RAW = Finish(refine="none", gate=False)  # the protocol's: the model's output as it is


class Model:
    """The three-track model, prompted "The sound of the {label}", with one seed per segment."""

    name = "model"

    def __init__(
        self,
        pipeline: Pipeline,
        sampling: Sampling,
        unconditional: bool = False,
        finish: Finish = RAW,
    ) -> None:
        check_sampler(sampling.sampler, pipeline.model.diffusion_objective)
        self.pipeline, self.sampling, self.finish = pipeline, sampling, finish
        self.unconditional = unconditional  # generate: no prompt

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        results = self.pipeline.run([self._request(e) for e in excerpts])
        return [
            Estimate(self._chosen(e, result), self._submixture(e, result))
            for e, result in zip(excerpts, results, strict=True)
        ]

    def _request(self, excerpt: Excerpt) -> Request:
        segment, task = excerpt.segment, TASKS[excerpt.segment.task]
        prompts: list[str | None] = [label_prompt(segment.wanted)]
        if segment.task in ("add", "compose"):
            prompts = [label_prompt(label) for label in segment.wanted]
        elif self.unconditional:
            prompts = [None]
        given = task.given is not None
        return Request(
            segment.task,
            [track_prompts(prompt, task.prompted) for prompt in prompts],
            Audio(excerpt.given, segment.sample_rate) if given else None,
            None if given else segment.samples / segment.sample_rate,
            segment_seed(segment.id, self.sampling.seed),
            sampling=self.sampling,
            finish=self.finish,
        )

    def _chosen(self, excerpt: Excerpt, result: Result) -> np.ndarray:
        if excerpt.segment.task == "add":
            return result.audio["mixture"] - excerpt.given
        if excerpt.segment.task == "extract":
            return next(iter(result.audio.values()))
        return fit_length(result.audio["mixture"], excerpt.segment.samples)

    def _submixture(self, excerpt: Excerpt, result: Result) -> np.ndarray | None:
        """The submixture that the model made; None if the source was changed after decoding.

        The residual of a result is the mixture without the source, which is always consistent.
        """
        segment = excerpt.segment
        if segment.task != "extract" or self.finish.refine != "none" or self.finish.gate:
            return None
        (latents,) = result.latents.values()
        rate = self.pipeline.sample_rate
        samples = -(-segment.samples * rate // segment.sample_rate)
        audio = self.pipeline.decode(latents[Track.SUBMIXTURE], samples)
        audio = _in_form(audio / 10 ** (result.info["input_gain_db"] / 20), rate, excerpt)
        return audio * sounding(excerpt.mixture, segment.sample_rate)  # silenced as the source is


class Mixture:
    """A floor: for extract the mixture itself, for add nothing new."""

    name = "mixture"

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        given = [e.mixture if e.segment.task == "extract" else 0 * e.mixture for e in excerpts]
        return [Estimate(audio) for audio in given]


class Silence:
    """The floor of a silent estimate."""

    name = "silence"

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        return [Estimate(np.zeros_like(e.mixture)) for e in excerpts]


class OtherStem:
    """The floor of add: the same labels from another segment, drawn by the segment's id."""

    name = "random stem"

    def __init__(self, segments: Sequence[Segment], corpora: Sequence[Corpus]) -> None:
        self.segments = segments
        self.songs = {(c.config.id, s.id): s for c in corpora for s in c.songs}

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        return [Estimate(self._other(e)) for e in excerpts]

    def _other(self, excerpt: Excerpt) -> np.ndarray:
        own = excerpt.segment
        alike = [s for s in self.segments if s.wanted == own.wanted and s.id != own.id]
        if not alike:
            raise ValueError(f"random stem: no other segment of {own.group}")
        other = alike[segment_seed(own.id, 0) % len(alike)]
        song = self.songs[other.corpus, other.song]
        return read_excerpt(other, song, len(excerpt.mixture)).truth


class RoundTrip:
    """The ceiling of a latent model: the truth (and the rest) through the autoencoder."""

    name = "round trip"

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        return [self._coded(e) for e in excerpts]

    def _coded(self, excerpt: Excerpt) -> Estimate:
        task = excerpt.segment.task
        target = excerpt.truth if task in ("extract", "add") else excerpt.mixture
        rest = self._through(excerpt.mixture - excerpt.truth) if task == "extract" else None
        return Estimate(self._through(target), rest)

    def _through(self, audio: np.ndarray) -> np.ndarray:
        return self.pipeline.decode(self.pipeline.encode(audio), audio.shape[1])


class RatioMask:
    """An oracle: the true source's share of the magnitudes as a mask on the mixture's STFT."""

    name = "ideal ratio mask"
    frame = 1024

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        return [Estimate(self._masked(e.mixture, e.truth)) for e in excerpts]

    def _masked(self, mixture: np.ndarray, truth: np.ndarray) -> np.ndarray:
        window = torch.hann_window(self.frame)
        x, s, r = (
            torch.stft(torch.from_numpy(a), self.frame, window=window, return_complex=True)
            for a in (mixture, truth, mixture - truth)
        )
        mask = s.abs() / (s.abs() + r.abs()).clamp_min(1e-8)
        masked = torch.istft(mask * x, self.frame, window=window, length=mixture.shape[1])
        return masked.numpy()


class Estimates:
    """A folder of another system's output: a file or a folder of stems per segment id.

    {segment id}.wav or .flac   the estimate
    {segment id}/{label}.wav    all stems of the system, of which those of the target are summed
    labels.json                 optional: the system's stems by our labels, {"other": ["piano"]}
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder, self.name = folder, name or folder.name
        self.stems: dict[str, list[str]] = {}
        if (path := folder / "labels.json").is_file():
            self.stems = _label_map(path)

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        return [Estimate(self._read(e)) for e in excerpts]

    def _read(self, excerpt: Excerpt) -> np.ndarray:
        path = self.folder / excerpt.segment.id
        if not path.is_dir():
            return self._file(path, excerpt)
        labels = excerpt.segment.wanted
        stems = dict.fromkeys(stem for label in labels for stem in self.stems.get(label, [label]))
        return np.sum([self._file(path / stem, excerpt) for stem in stems], axis=0)

    def _file(self, path: Path, excerpt: Excerpt) -> np.ndarray:
        for suffix in (".wav", ".flac"):
            if (file := path.with_name(path.name + suffix)).is_file():
                return _in_form(*read_audio(file), excerpt)
        raise AudioError("no estimate, neither .wav nor .flac", path)


def _label_map(path: Path) -> dict[str, list[str]]:
    stems = read_json(path)
    for label, names in stems.items():
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise ConfigError(f"{path}: {label}: expected a list of stem names, found {names!r}")
    return stems


def _in_form(audio: np.ndarray, sample_rate: int, excerpt: Excerpt) -> np.ndarray:
    """Audio at the sample rate, with the channels and the length of a segment."""
    audio = resample(audio, sample_rate, excerpt.segment.sample_rate)
    return fit_length(to_channels(audio, len(excerpt.mixture)), excerpt.segment.samples)


_EPS = 1e-8  # silence has no deviation to divide by
# what demucs raises for weights that are absent, damaged, of another version or not to be fetched;
# it ends the process where the package of quantised weights is missing
_FAILURES = (
    *(RuntimeError, OSError, ImportError, LookupError, EOFError, ValueError, SystemExit),
    *(pickle.UnpicklingError, AssertionError),
)


class Demucs:
    """A model of the `demucs` package (arXiv 2211.08553), applied without random shifts.

    It separates fixed sources: bass, drums, other and vocals, htdemucs_6s guitar and piano too.
    """

    name = "demucs"

    def __init__(
        self, model: Any, apply: Callable[..., Tensor], title: str, device: str, key: str = ""
    ) -> None:
        self.model, self.apply, self.title, self.device = model, apply, title, device
        self.key = key  # of its weights

    @property
    def sources(self) -> list[str]:
        """The labels that it separates."""
        return list(self.model.sources)

    def described(self) -> str:
        """A sentence for the page."""
        return f"{self.title}, separates {', '.join(self.sources)}; its averages are over these"

    def estimate(self, excerpts: Sequence[Excerpt]) -> list[Estimate]:
        """The target sources, and the sum of all its others."""
        for excerpt in excerpts:
            labels = excerpt.segment.wanted
            if unknown := [label for label in labels if label not in self.sources]:
                raise ValueError(
                    f"{self.title} separates {', '.join(self.sources)}, not {', '.join(unknown)}"
                )
        return [self._separated(e) for e in excerpts]

    def _separated(self, excerpt: Excerpt) -> Estimate:
        rate = self.model.samplerate
        audio = to_channels(excerpt.mixture, self.model.audio_channels)
        made = self._apply(torch.from_numpy(resample(audio, excerpt.segment.sample_rate, rate)))
        stems = dict(zip(self.sources, made, strict=True))
        target = [stems.pop(label) for label in excerpt.segment.wanted]
        parts = [torch.stack(stem).sum(dim=0).numpy() for stem in (target, list(stems.values()))]
        return Estimate(*(_in_form(part, rate, excerpt) for part in parts))

    @torch.no_grad()
    def _apply(self, mixture: Tensor) -> Tensor:
        """(channel, samples) to (source, channel, samples), at one level, as the package does."""
        mono = mixture.mean(dim=0)
        mean, std = mono.mean(), mono.std() + _EPS
        normal = ((mixture - mean) / std)[None]
        return self.apply(self.model, normal, shifts=0, device=self.device)[0].cpu() * std + mean


def open_demucs(where: str, device: str) -> Demucs:
    """Open by a name of the demucs package, a folder of weights, or FOLDER/NAME of several."""
    try:
        from demucs.apply import apply_model  # an optional package
        from demucs.pretrained import get_model
    except ImportError as error:
        raise ConfigError(
            f"demucs: the package cannot be imported ({error}); pip install demucs"
        ) from error
    name, folder = _find_demucs(where)
    try:
        model = get_model(name, folder)
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        reason = "it exited, for the reason above" if isinstance(error, SystemExit) else reason
        raise ConfigError(
            f"demucs {where}: its weights cannot be opened ({reason}); expected a name that demucs "
            "downloads by itself when online (htdemucs, htdemucs_ft, htdemucs_6s, ...), or a "
            "folder with the .th file, or the .yaml and the .th files that it names"
        ) from error
    files = [] if folder is None else sorted(folder.glob("*.th"))
    key = " ".join([name, *map(checkpoint_fingerprint, files)])
    return Demucs(model, apply_model, name, device, key)


def _find_demucs(where: str) -> tuple[str, Path | None]:
    """The model's name, and the folder of its weights; None is the package's own folder."""
    path = Path(where)
    if path.is_dir():
        return _only_model(path), path
    if path.parent.is_dir() and path.name != where:
        return path.name, path.parent
    if path.name != where and not where.startswith("hf://"):
        raise ConfigError(f"demucs {where}: no such folder, nor {path.parent}")
    return where, None


def _only_model(folder: Path) -> str:
    """The name of a bag (NAME.yaml, whose parts are .th files) or a model (NAME-CHECKSUM.th)."""
    bags, models = (sorted(folder.glob(f"*{end}")) for end in (".yaml", ".th"))
    names = [path.stem for path in bags] or [path.stem.rsplit("-", 1)[0] for path in models]
    if not models:
        raise ConfigError(f"demucs {folder}: no weights, expected .th files (and a .yaml of them)")
    if len(names) > 1:
        raise ConfigError(
            f"demucs {folder}: expected one model, found {', '.join(names)}; choose one: "
            f"{folder / names[0]}"
        )
    return names[0]
