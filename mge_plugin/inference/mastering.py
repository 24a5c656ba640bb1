"""From the model's tracks to audio as the user gave it: gate, refine, rate, channels, length."""

from collections.abc import Sequence

import numpy as np
import torch

from mge_plugin.data.audio import fit_length, resample, to_channels
from mge_plugin.inference import presence
from mge_plugin.inference.engine import Engine
from mge_plugin.inference.refine import refine
from mge_plugin.inference.request import Sampling, refines
from mge_plugin.inference.result import Result, levels, plain
from mge_plugin.inference.song import Made, Song
from mge_plugin.inference.tasks import TASKS
from mge_plugin.tracks import Track

SPLICE_SECONDS = 0.02  # crossfade from what is kept to what is made anew


class Mastering:
    """Turns what an engine made into results."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self.engine, self.channels = engine, channels
        self.sample_rate = engine.model.sample_rate

    def finish(self, song: Song, sampling: Sampling) -> Result:
        """The result of a request whose tracks are made."""
        finish = {
            "extract": self._extracted,
            "generate": self._generated,
            "accompany": self._accompanied,
        }.get(song.request.task, self._summed)
        return finish(song, sampling)

    def _generated(self, song: Song, sampling: Sampling) -> Result:
        (made,) = song.made
        mixture = self._spliced(song, self._at_rate(song, made.audio))
        return self._result(song, sampling, {"mixture": mixture}, {"mixture": made})

    def _accompanied(self, song: Song, sampling: Sampling) -> Result:
        """Silence is accompanied too."""
        (made,) = song.made
        submixture = self._spliced(song, self._at_rate(song, made.audio))
        audio = {"submixture": submixture, "mixture": song.request.audio + submixture}
        return self._result(song, sampling, audio, {"submixture": made})

    def _summed(self, song: Song, sampling: Sampling) -> Result:
        """Sources made in order, and their sum with what was given."""
        names = source_names(len(song.made))
        sources = [self._spliced(song, self._at_rate(song, made.audio)) for made in song.made]
        audio = dict(zip(names, sources, strict=True))
        given = song.request.audio
        audio["mixture"] = sum(sources) if given is None else given + sum(sources)
        return self._result(song, sampling, audio, dict(zip(names, song.made, strict=True)))

    def _extracted(self, song: Song, sampling: Sampling) -> Result:
        """Sources, gated and refined, and the residual, which sum to the mixture."""
        names, mixture = source_names(len(song.made)), song.request.audio
        gated = [self._gated(song, made, sampling) for made in song.made]
        rate, form = song.request.sample_rate, (self.sample_rate, self.channels)
        if refines(sampling, rate, len(mixture), form):
            rest = [
                self.engine.decode(m.latents[Track.SUBMIXTURE], song.samples) for m in song.made
            ]
            *sources, _ = refine(mixture, rate, gated, self.sample_rate, rest)
        else:
            sources = [self._at_rate(song, source) for source in gated]
        sounding = presence.sounding(mixture, rate)
        sources = [self._spliced(song, source) * sounding for source in sources]
        audio = dict(zip(names, sources, strict=True))
        audio["residual"] = mixture - sum(sources)
        return self._result(song, sampling, audio, dict(zip(names, song.made, strict=True)))

    def _gated(self, song: Song, made: Made, sampling: Sampling) -> np.ndarray:
        """The source, silent in the windows in which it is not present; scores go to its info."""
        windows = self.engine.windows(song.samples)
        pairs = [self.engine.by_window(audio) for audio in (made.audio, song.sum)]
        found = []
        for source, mixture in zip(*(p.numpy() for p in pairs), strict=True):
            similar = self.engine.similarity(TASKS["extract"], made.prompt, source)
            found.append(presence.presence(source, mixture, self.sample_rate, similar))
        best = max(found, key=lambda p: p.score)
        made.info["presence"] = best.described() | {
            "windows": [round(p.score, 4) for p in found],
            "threshold": sampling.gate_threshold if sampling.gate else None,
        }
        if not sampling.gate:
            return made.audio
        opened = torch.tensor([float(p.score >= sampling.gate_threshold) for p in found])
        size = windows.size * self.engine.ratio
        gate = windows.join(opened[:, None, None].expand(-1, 1, size), self.engine.ratio)
        return made.audio * gate.numpy()[:, : song.samples]

    def _at_rate(self, song: Song, audio: np.ndarray) -> np.ndarray:
        """At the rate, with the channels and the length of the request's audio, if it has any."""
        like = song.request.like
        if like is None:
            return audio
        audio = resample(audio, self.sample_rate, song.request.sample_rate)
        return to_channels(fit_length(audio, like.shape[1]), len(like))

    def _spliced(self, song: Song, audio: np.ndarray) -> np.ndarray:
        """What is kept of a track, and `audio` in the spans that were made anew."""
        keep = song.request.keep
        if keep is None:
            return audio
        anew = spans(keep.redo, audio.shape[1], song.request.sample_rate)
        kept = to_channels(keep.audio, len(audio))
        return np.where(anew > 0, kept + anew * (audio - kept), kept).astype(np.float32)

    def _result(
        self, song: Song, sampling: Sampling, audio: dict[str, np.ndarray], made: dict[str, Made]
    ) -> Result:
        request = song.request
        tracks = {name: levels(track) for name, track in audio.items()}
        for name, m in made.items():
            tracks[name] = {"prompt": plain(m.prompt)} | tracks[name] | m.info
        info = {
            "task": request.task,
            "seed": song.seed,
            "negative": plain(request.negative),
            "sampling": sampling.described(),
            "tracks": tracks,
        }
        if request.keep is not None:
            info["redo"] = [list(span) for span in request.keep.redo]
        latents = {
            name: m.latents[TASKS[request.task].prompted, :, : self.engine.frames_of(song.samples)]
            for name, m in made.items()
        }
        rate = self.sample_rate if request.like is None else request.sample_rate
        return Result(audio, rate, info, latents)


def source_names(count: int) -> list[str]:
    """`source`, or `source_1`, `source_2`, ..."""
    return ["source"] if count == 1 else [f"source_{i}" for i in range(1, count + 1)]


def spans(redo: Sequence[tuple[float, float]], samples: int, sample_rate: int) -> np.ndarray:
    """1 inside of the spans (seconds), 0 outside, a short rise and fall inside; (samples,)."""
    time = np.arange(samples) / sample_rate
    inside = np.zeros(samples)
    for start, end in redo:
        edge = np.minimum(time - start, end - time) / min(SPLICE_SECONDS, (end - start) / 2)
        inside = np.maximum(inside, np.clip(edge, 0.0, 1.0))
    return inside.astype(np.float32)
