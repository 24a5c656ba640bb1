"""The tasks on audio of any rate, length and number of channels: the Python API.

    audio -> model's rate and channels -> latents -> sampler -> audio -> the song's form

The command line and the web interface call nothing else.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import fit_length
from mge_plugin.devices import out_of_memory, pick
from mge_plugin.inference.denoiser import Batch, denoise
from mge_plugin.inference.finish import gate, refine, refine_blocks, splice
from mge_plugin.inference.presence import agreement, presence, sounding
from mge_plugin.inference.request import (
    AudioLike,
    Callback,
    Finish,
    Init,
    Keep,
    Request,
    Result,
    Sampling,
)
from mge_plugin.inference.sampling import UNBATCHED, ItemNoise, candidate_seed, check_sampler
from mge_plugin.inference.song import ModelForm, SampledTrack, Song, all_tracks, replaced
from mge_plugin.models.autoencoder import decode_song, encode_song
from mge_plugin.models.checkpoints import load_into
from mge_plugin.models.given import Given
from mge_plugin.models.hub import find_model
from mge_plugin.models.mge import MGEModel, create_mge_model, model_problems
from mge_plugin.prompts import Prompt, TrackPrompt, TrackPrompts, prompt_names
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model
from mge_plugin.tracks import NUM_TRACKS, TASKS, Task, Track

if TYPE_CHECKING:
    from typing_extensions import Unpack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Prompts = Prompt | Sequence[Prompt]
_IN_ORDER = ("add", "compose")  # tasks whose prompts are done one after another


class Options(TypedDict, total=False):
    """Options of every task; `mge_plugin.inference.request.Request` describes them."""

    negative: Prompt
    seed: int | None
    keep: Keep | None
    init: Init | None
    sampling: Sampling | None
    finish: Finish
    callback: Callback | None


class Pipeline:
    """A model with the tasks on it.

    Audio is a path, a file object, or (samples, sample rate) with float samples (channels,
    samples); what comes back has its rate, channels, length and level. A prompt is a text, an audio
    example or both, for the task's prompted track, or a mapping from track labels to them (see
    `mge_plugin.prompts`). `sampling` defaults to the model's own.

    `callback` is called often, with a mapping: `stage` ("sample", "decode" or "refine") and
    `advance`, 1 if one of the `steps` is completed, else 0; after a step of the sampler also i, t,
    sigma, x and denoised. What it raises, such as `Cancelled`, stops the run.
    """

    def __init__(
        self,
        model: MGEModel,
        sample_size: int,
        channels: int,
        device: str,
        sampling: Sampling | None = None,
        input_level: float | None = None,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.channels, self.device = channels, device
        self.sampling = sampling or Sampling()
        ratio = model.pretransform.downsampling_ratio
        frames = sample_size // ratio
        self.form = ModelForm(model.sample_rate, channels, ratio, frames, input_level)
        self._seconds: dict[str, float] = defaultdict(float)  # by stage, of the current batch

    @property
    def sample_rate(self) -> int:
        """The model's own, Hz."""
        return self.model.sample_rate

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.form.frames * self.form.ratio

    @property
    def supports_audio(self) -> bool:
        """Whether the model can embed audio, for prompts with an example."""
        return any(c.supports_audio for c in self.model.conditioner.conditioners.values())

    def generate(
        self, prompt: Prompt = None, seconds: float | None = None, **options: "Unpack[Options]"
    ) -> Result:
        """A mixture from a text, `seconds` long (default: one window)."""
        return self._one("generate", prompt, None, seconds=seconds, **options)

    def extract(self, audio: AudioLike, prompts: Prompts, **options: "Unpack[Options]") -> Result:
        """The source for each prompt in a mixture, and the residual, everything but the sources.

        Sources + residual are the mixture. Where the mixture is silent, so are they. A source that
        is not in the mixture is silent (`finish.gate`). If the mixture has a higher rate or more
        channels than the model, the model's output becomes a mask on it (`finish.refine`).
        """
        return self._one("extract", prompts, audio, **options)

    def add(self, audio: AudioLike, prompts: Prompts, **options: "Unpack[Options]") -> Result:
        """A new source for each prompt, in order, that fits a submixture; and the new mixture."""
        return self._one("add", prompts, audio, **options)

    def accompany(
        self, audio: AudioLike, prompt: Prompt = None, **options: "Unpack[Options]"
    ) -> Result:
        """The rest of the band for a source: a submixture, and the mixture of both."""
        return self._one("accompany", prompt, audio, **options)

    def compose(
        self, prompts: Prompts, seconds: float | None = None, **options: "Unpack[Options]"
    ) -> Result:
        """A song, source by source: one for each prompt, in order; and their mixture."""
        return self._one("compose", prompts, None, seconds=seconds, **options)

    def replace(
        self, audio: AudioLike, prompt: Prompt, new_prompt: Prompt, **options: "Unpack[Options]"
    ) -> Result:
        """Exchange one instrument: extract it from a mixture, add the new one to the residual."""
        return self._one("replace", prompt, audio, new_prompt=new_prompt, **options)

    def _one(
        self,
        task: str,
        prompts: Prompts,
        audio: AudioLike | None,
        callback: Callback | None = None,
        **fields: Any,
    ) -> Result:
        """The result of one request."""
        return self.run([Request(task, prompts, audio, **fields)], callback)[0]

    @torch.no_grad()
    def run(self, requests: Sequence[Request], callback: Callback | None = None) -> list[Result]:
        """A result for each request; those with one task and sampling are sampled together."""
        results: dict[int, Result] = {}
        for numbers, sampling in self._groups(requests):
            check_sampler(sampling.sampler, self.model.diffusion_objective)
            group = [requests[number] for number in numbers]
            self._seconds.clear()
            with out_of_memory(self._no_memory(sampling)):
                results |= zip(numbers, self._run_group(group, sampling, callback), strict=True)
        return [results[number] for number in range(len(requests))]

    def steps(self, requests: Sequence[Request]) -> int:
        """How many times the callback's `advance` will be 1, for a progress bar."""
        return sum(
            self._sampler_steps([requests[number] for number in numbers], sampling)
            + sum(self._finish_steps(requests[number], sampling) for number in numbers)
            for numbers, sampling in self._groups(requests)
        )

    def encode(self, audio: np.ndarray) -> Tensor:
        """(channels, samples) at the model's rate to latents (c, n), silent to the last window."""
        padded = self.form.windows(audio.shape[1]).padded_length * self.form.ratio
        waveform = torch.from_numpy(fit_length(audio, padded))
        return encode_song(self.model.pretransform, waveform, self.sample_rate)

    def decode(self, latents: Tensor, samples: int, like: np.ndarray | None = None) -> np.ndarray:
        """Latents (c, n) to audio (channels, samples) at the model's rate.

        An autoencoder without phases takes those of `like` (channels, samples), if given.
        """
        latents = latents[:, : self.form.windows(samples).padded_length]
        phases = None
        if like is not None:
            phases = torch.from_numpy(fit_length(like, latents.shape[-1] * self.form.ratio))
        pieces = decode_song(self.model.pretransform, latents, self.sample_rate, phases)
        audio = np.concatenate([piece.numpy() for piece in pieces], axis=1)[:, :samples]
        if not np.isfinite(audio).all():
            raise ValueError("the model made NaN or infinite samples: are its weights damaged?")
        return audio

    def similarity(self, task: Task, prompt: TrackPrompts, audio: np.ndarray) -> float | None:
        """Cosine of the embeddings of a prompt and of audio; None if audio is not supported."""
        if not self.supports_audio or not prompt or not audio.any():
            return None
        example = TrackPrompt(audio=torch.from_numpy(audio), sample_rate=self.sample_rate)
        wanted, found = self._embed([prompt, {task.prompted: example}])[:, task.prompted]
        return float(torch.cosine_similarity(wanted, found, dim=0))

    def _groups(self, requests: Sequence[Request]) -> list[tuple[list[int], Sampling]]:
        """Numbers of the requests that can be sampled in the same batches, and how."""
        groups: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            sampling = replace(request.sampling or self.sampling, seed=0)
            level = None if request.init is None else request.init.level
            groups.setdefault((request.task, sampling, level), []).append(number)
        return [(numbers, sampling) for (_, sampling, _), numbers in groups.items()]

    def _run_group(
        self, requests: Sequence[Request], sampling: Sampling, callback: Callback | None
    ) -> list[Result]:
        if requests[0].task == "replace":
            return self._replace(requests, sampling, callback)
        with self._timed("encode"):
            songs = [self._open(request, sampling) for request in requests]
        task = requests[0].info
        if requests[0].task in _IN_ORDER:
            for number in range(max(len(song.request.prompts) for song in songs)):
                current = [song for song in songs if number < len(song.request.prompts)]
                pairs = [(song, song.request.prompts[number]) for song in current]
                self._sample(TASKS["add"] if number else task, pairs, sampling, callback)
                for song in current:
                    self._sum_up(song)
        else:
            pairs = [(song, prompt) for song in songs for prompt in song.request.prompts]
            self._sample(task, pairs, sampling, callback)
        with self._timed("finish"):
            results = [self._finish(song, callback) for song in songs]
        for result in results:
            result.info["seconds"] = {s: round(taken, 3) for s, taken in self._seconds.items()}
        return results

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add to the seconds that the stage takes for all requests of a batch."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    def _replace(
        self, requests: Sequence[Request], sampling: Sampling, callback: Callback | None
    ) -> list[Result]:
        """Extract what the prompts name, add the new sources to the residuals."""
        first = [replace(r, task="extract", new_prompt=None) for r in requests]
        taken = self._run_group(first, sampling, callback)
        second = [
            Request(
                "add",
                [request.new_prompt],
                (result.audio["residual"], result.sample_rate, request.audio.name),
                seed=request.seed,
                negative=request.negative,
                sampling=request.sampling,
            )
            for request, result in zip(requests, taken, strict=True)
        ]
        added = self._run_group(second, sampling, callback)
        return [replaced(*pair) for pair in zip(taken, added, strict=True)]

    def _sampler_steps(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """Steps of the sampler for requests that are sampled together."""
        task = requests[0].task
        prompts = [len(request.prompts) for request in requests]
        rounds = {"replace": 2}.get(task, max(prompts) if task in _IN_ORDER else 1)
        windows = 1
        if sampling.long_form == "sequential":
            windows = max(len(self.form.windows(self.form.length(r)).starts) for r in requests)
        if sampling.sampler in UNBATCHED:
            rounds = sum(prompts) * sampling.candidates * (2 if task == "replace" else 1)
        return rounds * sampling.steps * windows

    def _finish_steps(self, request: Request, sampling: Sampling) -> int:
        """Tracks to decode and blocks to refine."""
        count = len(request.prompts) * (sampling.candidates if sampling.choose == "best" else 1)
        if request.task == "replace":
            count *= 2
        if self.form.masks(request):
            audio = request.audio
            count += len(request.prompts)
            count += refine_blocks(audio.samples.shape[1], audio.sample_rate)
        return count

    def _open(self, request: Request, sampling: Sampling) -> Song:
        """Encode what is given."""
        own = request.sampling or self.sampling
        seed = own.seed if request.seed is None else request.seed
        song = Song(request, replace(sampling, seed=own.seed), seed, self.form)
        if song.total is not None:
            song.given = self.encode(song.total)
        if request.keep is not None:
            kept = fit_length(song.at_model(request.keep.audio), song.samples)
            song.keep = (self.encode(kept), song.frames_to_keep(request.keep))
        if request.init is not None and request.init.level < 1:
            audio = fit_length(song.at_model(request.init.audio), song.samples)
            tracks = all_tracks(request.info, audio, song.total)
            latents = torch.stack([self.encode(tracks[track]) for track in Track])
            song.init = (latents, request.init.level)
        return song

    def _sum_up(self, song: Song) -> None:
        """Add the last source to the sum, and encode that for the next prompt."""
        last = song.tracks[-1]
        if song.total is None:  # the first source of a composition is the sum itself
            song.total, song.given = last.audio, last.latents[Track.SOURCE]
            return
        song.total = song.total + last.audio
        if len(song.tracks) < len(song.request.prompts):
            song.given = self.encode(song.total)

    def _sample(
        self,
        task: Task,
        pairs: Sequence[tuple[Song, TrackPrompts]],
        sampling: Sampling,
        callback: Callback | None,
    ) -> None:
        """Sample a track for each (song, prompt), several candidates each, and choose one."""
        rows = [
            (song, prompt, candidate_seed(song.seed, candidate))
            for song, prompt in pairs
            for candidate in range(sampling.candidates)
        ]
        size = 1 if sampling.sampler in UNBATCHED else len(rows)
        with self._timed("sample"):
            latents = [
                latents
                for first in range(0, len(rows), size)
                for latents in self._denoise(task, rows[first : first + size], sampling, callback)
            ]
        with self._timed("decode"):
            for number, (song, prompt) in enumerate(pairs):
                first = number * sampling.candidates
                own = latents[first : first + sampling.candidates]
                if sampling.choose == "mean":
                    own = [torch.stack(own).mean(dim=0)]
                song.tracks.append(self._best(task, song, prompt, own, callback))

    def _denoise(
        self,
        task: Task,
        rows: Sequence[tuple[Song, TrackPrompts, int]],
        sampling: Sampling,
        callback: Callback | None,
    ) -> Tensor:
        """Latents (b, k, c, n) of (song, prompt, seed) rows, n up to the longest's last window."""
        songs = [song for song, _, _ in rows]
        windows = self.form.windows(max(song.samples for song in songs))
        shape = (NUM_TRACKS, self.model.io_channels // NUM_TRACKS, windows.padded_length)
        noise = ItemNoise([seed for _, _, seed in rows], shape, self.device)
        negative = None
        if any(song.request.negative for song in songs):
            negative = self._modulations([song.request.negative for song in songs])
        init = None
        inits = [song.init for song in songs if song.init is not None and not song.tracks]
        if inits:
            flat = [latents.flatten(0, 1) for latents, _ in inits]
            latents = self._stack(flat, windows.padded_length).unflatten(1, (NUM_TRACKS, -1))
            init = (latents, inits[0][1])
        batch = Batch(
            noise,
            self._modulations([prompt for _, prompt, _ in rows]),
            windows,
            [
                (item, window)
                for item, song in enumerate(songs)
                for window, sounds in enumerate(song.sounding)
                if sounds
            ],
            self._given(task, songs, noise),
            negative,
            init,
        )
        return denoise(self.model.model, batch, sampling, callback)

    def _given(self, task: Task, songs: Sequence[Song], noise: ItemNoise) -> Given | None:
        """The given track and the frames to keep, silent latents after a shorter song's end."""
        given, known = None, [song.given for song in songs if song.given is not None]
        if known and task.given is not None:
            given = Given.track(task.given, self._stack(known, noise.frames))
        if all(song.keep is None for song in songs):
            return given
        first = noise.first()
        latents, keep = torch.zeros_like(first), torch.zeros_like(first[:, :, 0])
        for item, song in enumerate(songs):
            if song.keep is not None:
                kept, frames = song.keep
                latents[item, task.prompted, :, : kept.shape[-1]] = kept
                keep[item, task.prompted, : len(frames)] = frames
        return (given or Given.nothing(first)).keeping(keep, latents, first)

    def _stack(self, tensors: Sequence[Tensor], frames: int) -> Tensor:
        """(c, n) each to (b, c, frames); windows beyond a song's own are never sampled."""
        padded = [functional.pad(t, (0, frames - t.shape[-1])) for t in tensors]
        return torch.stack(padded).to(self.device)

    def _modulations(self, prompts: Sequence[TrackPrompts | None]) -> Tensor:
        """Of the prompts of a batch, (depth, b, 6*k*w)."""
        return self.model.model.modulate(self._embed(prompts))

    def _embed(self, prompts: Sequence[TrackPrompts | None]) -> Tensor:
        """Embeddings (b, k, d), zeros where there is no prompt."""
        metadata = [dict.fromkeys(self.model.conditioner.conditioners, p) for p in prompts]
        return self.model.embeddings(self.model.conditioner(metadata, self.device))

    def _best(
        self,
        task: Task,
        song: Song,
        prompt: TrackPrompts,
        candidates: Sequence[Tensor],
        callback: Callback | None,
    ) -> SampledTrack:
        """The candidate (k, c, n) with the highest score, its audio and all scores."""
        tracks, like = [], song.total if self.form.masks(song.request) else None
        for latents in candidates:
            audio = self.decode(latents[task.prompted], song.samples, like)
            _advance(callback, "decode")
            track = SampledTrack(prompt, latents.cpu(), audio)
            if len(candidates) > 1:
                track.info = self._scores(task, song, track)
            tracks.append(track)
        best = max(range(len(tracks)), key=lambda i: tracks[i].info.get("score", 0.0))
        if len(tracks) > 1:
            tracks[best].info = {"candidates": [t.info for t in tracks], "chosen": best}
        return tracks[best]

    def _scores(self, task: Task, song: Song, track: SampledTrack) -> dict[str, float]:
        """How well the tracks of a candidate agree, and the prompted one with its prompt."""
        like = song.total if self.form.masks(song.request) else None
        audio = {task.prompted: track.audio}
        for other in Track:
            if other is task.given and song.total is not None:
                audio[other] = song.total
            elif other is not task.prompted:
                audio[other] = self.decode(track.latents[other], song.samples, like)
        parts = audio[Track.SUBMIXTURE] + audio[Track.SOURCE]
        agrees = agreement(audio[Track.MIXTURE], parts, self.sample_rate)
        similar = self.similarity(task, track.prompt, track.audio)
        scores = {"agreement": agrees} | ({} if similar is None else {"similarity": similar})
        return {"score": sum(scores.values())} | scores

    def _finish(self, song: Song, callback: Callback | None) -> Result:
        """Tracks in the form of the given audio, and the sums that belong to the task."""
        request, task = song.request, song.request.info
        if task.given is Track.MIXTURE:
            return self._extracted(song, callback)
        audio = [splice(request.keep, song.in_form(track.audio)) for track in song.tracks]
        if task.prompted is Track.SOURCE:
            names = prompt_names([track.prompt for track in song.tracks], ("mixture",))
        else:
            names = [task.prompted.label]
        named = dict(zip(names, audio, strict=True))
        if task.prompted is not Track.MIXTURE:
            mixture = np.zeros_like(audio[0])
            for part in audio if request.audio is None else [request.audio.samples, *audio]:
                mixture += part
            named["mixture"] = mixture
        return song.result(named)

    def _extracted(self, song: Song, callback: Callback | None) -> Result:
        """Sources, gated and refined, and the residual, which sum to the mixture."""
        request, given = song.request, song.request.audio
        mixture, rate = given.samples, given.sample_rate
        sources = [self._gated(song, track) for track in song.tracks]
        if self.form.masks(request):
            rests = []
            for track in song.tracks:
                latents = track.latents[Track.SUBMIXTURE]
                rests.append(self.decode(latents, song.samples, song.total))
                _advance(callback, "decode")
            sources = refine(
                mixture,
                rate,
                sources,
                rests,
                self.sample_rate,
                lambda: _advance(callback, "refine"),
            )
        else:
            sources = [song.in_form(source) for source in sources]
        sounds = sounding(mixture, rate)
        residual = mixture.copy()
        for number, source in enumerate(sources):
            sources[number] = source = splice(request.keep, source)
            source *= sounds
            residual -= source
        names = prompt_names([track.prompt for track in song.tracks], ("residual",))
        return song.result(dict(zip(names, sources, strict=True)) | {"residual": residual})

    def _gated(self, song: Song, track: SampledTrack) -> np.ndarray:
        """The source, silent in windows in which it is not present; scores go to its info."""
        finish, windows = song.request.finish, self.form.windows(song.samples)
        given = np.zeros_like(track.audio) if song.total is None else song.total
        pairs = [self.form.by_window(audio).numpy() for audio in (track.audio, given)]
        found = []
        for source, mixture in zip(*pairs, strict=True):
            similar = self.similarity(song.request.info, track.prompt, source)
            found.append(presence(source, mixture, self.sample_rate, similar))
        best = max(found, key=lambda p: p.score)
        track.info["presence"] = best.described() | {
            "windows": [round(p.score, 4) for p in found],
            "threshold": finish.gate_threshold if finish.gate else None,
        }
        if not finish.gate:
            return track.audio
        return gate(
            track.audio, windows, self.form.ratio, [p.score >= finish.gate_threshold for p in found]
        )

    def _no_memory(self, sampling: Sampling) -> str:
        """What to say if torch cannot allocate: what did not fit and what may."""
        seconds = self.window / self.sample_rate
        advice = "a shorter song, or a machine with more memory is needed"
        if sampling.window_batch > 1:
            advice = f"try window_batch {sampling.window_batch // 2}"
        if sampling.candidates > 1:
            advice = f"try fewer candidates than {sampling.candidates}"
        return (
            f"not enough memory on {self.device} for {sampling.window_batch} windows of "
            f"{seconds:.1f} s at a time: {advice}"
        )


def _advance(callback: Callback | None, stage: str) -> None:
    if callback is not None:
        callback({"stage": stage, "advance": 1})


def load(
    model: Path | str | None = None,
    ckpt: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool = False,
) -> Pipeline:
    """Open a model, ready for the tasks.

    `model` is the name of shipped weights (the default), a folder, a file with its config inside,
    or a Hub id (see `mge_plugin.models.hub`); with `ckpt` it is a JSON config. `dtype` is the
    network's: float32, bfloat16, float16, or auto, which is bfloat16 on a GPU; the autoencoder
    stays float32. `compiled` compiles the network at its first call, on a GPU into
    CUDA graphs: worth it for more than one song.
    """
    files = find_model(model, ckpt)
    config, where = files.config, files.config_file
    if not is_our_model(config):
        raise ConfigError(
            f"{where}: not a three-track model, whose model.diffusion.type is {DIFFUSION_TYPE!r}"
        )
    if problems := model_problems(config):
        raise ConfigError(*(f"{where}: {problem}" for problem in problems))
    sampling = Sampling.of_model(config)
    device = pick(device)
    precision = pick_dtype(dtype, device)
    network = create_mge_model(config)
    if network.pretransform is None:
        raise ConfigError(f"{where}: model.pretransform is needed to encode and decode audio")
    load_into(network, files.ckpt)
    channels = config.get("audio_channels", 2)
    level = config.get("input_level")
    pipeline = Pipeline(network, config["sample_size"], channels, device, sampling, level)
    pipeline.model.model.to(precision)
    if compiled:
        mode = "reduce-overhead" if device.startswith("cuda") else None
        pipeline.model.model.model.compile(mode=mode, dynamic=False)
    return pipeline


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The network's precision on a device."""
    if dtype == "auto":
        half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if half else "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected auto or one of {', '.join(DTYPES)}, found {dtype!r}")
    return DTYPES[dtype]
