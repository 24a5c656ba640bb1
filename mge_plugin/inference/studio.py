"""The tasks on songs: what is given is encoded, rounds of items are denoised, the best is kept."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mge_plugin.data.audio import fit_length, resample, to_channels
from mge_plugin.inference import presence
from mge_plugin.inference.ddim import Callback
from mge_plugin.inference.engine import Engine, Item, Kept
from mge_plugin.inference.mastering import Mastering
from mge_plugin.inference.request import Sampling
from mge_plugin.inference.result import Result
from mge_plugin.inference.schedule import Start
from mge_plugin.inference.seeds import candidate_seed
from mge_plugin.inference.song import Made, Song
from mge_plugin.inference.tasks import TASKS, Request, Task, by_track, together
from mge_plugin.prompts import Prompt
from mge_plugin.tracks import Track


class Studio:
    """Runs requests on an engine."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self.engine, self.channels = engine, channels
        self.sample_rate = engine.model.sample_rate
        self.mastering = Mastering(engine, channels)

    def run(
        self, requests: Sequence[Request], sampling: Sampling, callback: Callback | None
    ) -> list[Result]:
        """A result for each request; all of one task."""
        task = TASKS[requests[0].task]
        with self.engine.enough_memory(sampling):
            songs = [self._open(request, sampling) for request in requests]
            if requests[0].task in ("add", "compose"):
                self._in_order(task, songs, sampling, callback)
            else:
                prompts = [(song, prompt) for song in songs for prompt in song.request.prompts]
                self._make(task, prompts, sampling, callback)
            return [self.mastering.finish(song, sampling) for song in songs]

    def steps(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How often the callback will be called."""
        samples = [self._length(request) for request in requests]
        rounds = 1
        if requests[0].task in ("add", "compose"):
            rounds = max(len(request.prompts) for request in requests)
        return rounds * self.engine.steps(samples, sampling)

    def _length(self, request: Request) -> int:
        """Samples at the model's rate, one window if nothing says how many."""
        if request.like is not None:
            return -(-request.like.shape[1] * self.sample_rate // request.sample_rate)
        if request.seconds is None:
            return self.engine.frames * self.engine.ratio
        return max(1, round(request.seconds * self.sample_rate))

    def _open(self, request: Request, sampling: Sampling) -> Song:
        seed = sampling.seed if request.seed is None else request.seed
        song = Song(request, self._length(request), seed)
        if request.audio is not None:
            song.sum = self._heard(request.audio, request.sample_rate)
            song.given = self.engine.encode(song.sum)
            if TASKS[request.task].given is Track.MIXTURE:  # in silence there is nothing to find
                song.sounding = [bool(piece.any()) for piece in self.engine.by_window(song.sum)]
        return song

    def _heard(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Audio at the model's rate and channels."""
        return resample(to_channels(audio, self.channels), sample_rate, self.sample_rate)

    def _in_order(
        self, task: Task, songs: Sequence[Song], sampling: Sampling, callback: Callback | None
    ) -> None:
        """A source for each prompt, one after another, each given the sum so far."""
        for number in range(max(len(song.request.prompts) for song in songs)):
            current = [song for song in songs if number < len(song.request.prompts)]
            round_task = TASKS["add"] if number else task
            asked = [(song, song.request.prompts[number]) for song in current]
            self._make(round_task, asked, sampling, callback)
            for song in current:
                self._sum_up(song)

    def _sum_up(self, song: Song) -> None:
        """Take the last source into the sum, and encode that for the next prompt."""
        last = song.made[-1]
        if song.sum is None:  # the first of a composition is the sum itself
            song.sum, song.given = last.audio, last.latents[Track.SOURCE]
            return
        song.sum = song.sum + last.audio
        if len(song.made) < len(song.request.prompts):
            song.given = self.engine.encode(song.sum)

    def _make(
        self,
        task: Task,
        asked: Sequence[tuple[Song, Prompt]],
        sampling: Sampling,
        callback: Callback | None,
    ) -> None:
        """Denoise a track for each (song, prompt), several candidates each, and keep the best."""
        items = [
            self._item(task, song, prompt, candidate_seed(song.seed, candidate))
            for song, prompt in asked
            for candidate in range(sampling.candidates)
        ]
        latents = self.engine.denoise(task, items, sampling, callback)
        for i, (song, prompt) in enumerate(asked):
            first = i * sampling.candidates
            mine = latents[first : first + sampling.candidates]
            song.made.append(self._best(task, song, prompt, mine))

    def _item(self, task: Task, song: Song, prompt: Prompt, seed: int) -> Item:
        return Item(
            by_track(prompt, task),
            seed,
            self.engine.frames_of(song.samples),
            song.given,
            song.sounding,
            by_track(song.request.negative, task),
            self._kept(song),
            self._start(task, song),
        )

    def _kept(self, song: Song) -> Kept | None:
        """The frames that lie outside of every span that is made anew."""
        keep = song.request.keep
        if keep is None:
            return None
        heard = self._heard(keep.audio, song.request.sample_rate)
        latents = self.engine.encode(fit_length(heard, song.samples))
        per_second = self.sample_rate / self.engine.ratio
        frames = torch.ones(self.engine.frames_of(song.samples))
        for start, end in keep.redo:
            frames[int(start * per_second) : int(np.ceil(end * per_second))] = 0.0
        return Kept(latents, frames)

    def _start(self, task: Task, song: Song) -> Start | None:
        """The three tracks that a sound to begin from makes with what is given."""
        init = song.request.init
        if init is None or song.made:
            return None
        heard = self._heard(init.audio, song.request.sample_rate)
        tracks = together(task, fit_length(heard, song.samples), song.sum)
        latents = torch.stack([self.engine.encode(tracks[track]) for track in Track])
        return Start(latents, init.level)

    def _best(self, task: Task, song: Song, prompt: Prompt, candidates: Tensor) -> Made:
        """The candidate (k, c, n) with the highest score, its audio and all scores."""
        made = []
        for latents in candidates:
            audio = self.engine.decode(latents[task.prompted], song.samples)
            info = self._scores(task, song, prompt, latents, audio) if len(candidates) > 1 else {}
            made.append(Made(prompt, latents.cpu(), audio, info))
        best = max(range(len(made)), key=lambda i: made[i].info.get("score", 0.0))
        if len(made) > 1:
            made[best].info = {"candidates": [m.info for m in made], "chosen": best}
        return made[best]

    def _scores(
        self, task: Task, song: Song, prompt: Prompt, latents: Tensor, audio: np.ndarray
    ) -> dict[str, float]:
        """How well the tracks of a candidate agree, and the prompted one with its prompt."""
        tracks = {task.prompted: audio}
        for track in Track:
            if track is task.given:
                tracks[track] = song.sum
            elif track is not task.prompted:
                tracks[track] = self.engine.decode(latents[track], song.samples)
        parts = tracks[Track.SUBMIXTURE] + tracks[Track.SOURCE]
        agrees = presence.agreement(tracks[Track.MIXTURE], parts, self.sample_rate)
        similar = self.engine.similarity(task, prompt, audio)
        scores = {"agreement": agrees} | ({} if similar is None else {"similarity": similar})
        return {"score": sum(scores.values())} | scores
