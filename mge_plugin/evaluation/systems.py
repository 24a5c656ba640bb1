"""What is judged: the model, floors and ceilings in the same run, and anybody's estimates.

A system gets segments (`Heard`) and gives an estimate (channels, samples) for each: of extract the
source, of add the new sources together, of generate and compose the mixture.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mge_plugin.data.audio import AudioError, fit_length, read_audio, resample, to_channels
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.evaluation.segments import Heard, Segment, listen
from mge_plugin.inference.pipeline import Pipeline, Request, Sampling
from mge_plugin.inference.samplers import check_sampler
from mge_plugin.prompts import label_prompt


class System(Protocol):
    """Something that makes estimates."""

    name: str

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]: ...


class Model:
    """The three-track model: prompts "The sound of the {label}", a seed for each segment."""

    name = "model"

    def __init__(self, pipeline: Pipeline, sampling: Sampling) -> None:
        check_sampler(sampling.sampler, pipeline.model.diffusion_objective)
        self.pipeline, self.sampling = pipeline, sampling

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        requests = [self._request(h) for h in heard]
        results = self.pipeline.run(requests, self.sampling)
        return [self._chosen(h, r.audio) for h, r in zip(heard, results, strict=True)]

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


class Mixture:
    """The floor of doing nothing: of extract the mixture, of add nothing new."""

    name = "mixture"

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        return [h.mixture if h.segment.task == "extract" else 0 * h.mixture for h in heard]


class Silence:
    """The floor of giving nothing."""

    name = "silence"

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        return [np.zeros_like(h.mixture) for h in heard]


class OtherStem:
    """The floor of add: what is wanted, but of another segment, drawn by the segment's id."""

    name = "random stem"

    def __init__(self, segments: Sequence[Segment], corpora: Sequence[Corpus]) -> None:
        self.segments = segments
        self.songs = {(c.config.id, s.id): s for c in corpora for s in c.songs}

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        return [self._other(h) for h in heard]

    def _other(self, heard: Heard) -> np.ndarray:
        own = heard.segment
        alike = [s for s in self.segments if s.wanted == own.wanted and s.id != own.id]
        if not alike:
            raise ValueError("a random stem: there is no other segment of its kind")
        other = alike[segment_seed(own.id, 0) % len(alike)]
        return listen(other, self.songs[other.corpus, other.song], len(heard.mixture)).truth


class RoundTrip:
    """The ceiling of a latent model: the truth through the autoencoder."""

    name = "round trip"

    def __init__(self, pipeline: Pipeline) -> None:
        self.engine = pipeline.engine

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        wanted = [h.truth if h.segment.task in ("extract", "add") else h.mixture for h in heard]
        return [self.engine.decode(self.engine.encode(a), a.shape[1]) for a in wanted]


class RatioMask:
    """An oracle: the share of the true source's magnitude, applied to the mixture's STFT."""

    name = "ideal ratio mask"
    frame = 1024

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        return [self._masked(h.mixture, h.truth) for h in heard]

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

    def estimate(self, heard: Sequence[Heard]) -> list[np.ndarray]:
        return [self._read(h) for h in heard]

    def _read(self, heard: Heard) -> np.ndarray:
        segment = heard.segment
        for suffix in (".wav", ".flac"):
            path = self.folder / f"{segment.id}{suffix}"
            if path.is_file():
                audio, rate = read_audio(path)
                audio = to_channels(resample(audio, rate, segment.sample_rate), len(heard.mixture))
                return fit_length(audio, segment.samples)
        raise AudioError("no estimate, neither .wav nor .flac", self.folder / segment.id)


def segment_seed(segment: str, seed: int) -> int:
    """The same noise for a segment whatever is judged beside it."""
    numbers = np.frombuffer(segment.encode(), dtype=np.uint8)
    return int(np.random.SeedSequence([seed, *numbers.tolist()]).generate_state(1, np.uint32)[0])


def paper_sampling(steps: int = 250, cfg_scale: float = 2.0, **options: object) -> Sampling:
    """The paper's: 250 DDIM steps, guidance 2, and what the model made as it is."""
    return replace(Sampling(steps, cfg_scale, refine="none", gate=False), **options)
