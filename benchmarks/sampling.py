"""Sampling against a literal loop and stable-audio-tools' own sampler: steps, songs, quality.

python benchmarks/sampling.py                     golden, small and medium; on a GPU full too
python benchmarks/sampling.py --only quality memory --model-config model.json \
    --ckpt model.safetensors --corpus minislakh   the tables that need a trained model

steps    seconds per step, the ways in turns in one process. `ours` is the sampling loop of the
         tasks. The literal loop is the paper's algorithm 2 as written: prompt and negative prompt
         are projected in every step, guidance is two calls of the network, windows are sampled one
         after another. SAT is its v-ddim on its own DiT of the same width, depth and heads, with
         the windows as a batch and the prompt as a token before the frames, since SAT guides only
         tokens; so both transformers process the same number of tokens. Ratios are medians over
         the rounds, with quartiles. On a GPU in bf16, and compiled into CUDA graphs too.
songs    a three-minute song, its source extracted: all windows together, against one after
         another with the overlap kept, by DDIM and by RePaint.
quality  Log-Mel L1 of extracted sources by sampler and steps, one seed and the same windows.
memory   peak memory and seconds per stage of `load().extract` on stereo songs of 44.1 kHz.
peer     30 s of 44.1 kHz stereo into four sources, beside torchaudio's HDemucs with random weights
         (without shifts, in segments with overlap 0.25), in turns, one thread.
"""

import argparse
import contextlib
import inspect
import io
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_audio_tools.inference.sampling import sample_k
from stable_audio_tools.models.dit import DiffusionTransformer
from torch import Tensor, nn
from torchaudio.models import hdemucs_high
from training import DEVICE, SIZES, Size

from mge_plugin.data.audio import rms_db
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.songs import Song
from mge_plugin.data.triplets import Format, Window, make_triplet
from mge_plugin.evaluation.metrics import log_mel_l1
from mge_plugin.inference.denoiser import Batch, Denoiser, denoise
from mge_plugin.inference.pipeline import Pipeline, load
from mge_plugin.inference.request import Finish, Request, Sampling
from mge_plugin.inference.sampling import (
    ItemNoise,
    checked,
    ddim_step,
    linear_schedule,
    sample_ddim,
)
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.prompts import label_prompt
from mge_plugin.tracks import NUM_TRACKS, Track, pack, unpack

PRECISION = torch.bfloat16 if DEVICE == "cuda" else torch.float32
STEPS = {"golden": 40, "small": 16, "medium": 4, "full": 16}  # of a turn
GUIDED, UNGUIDED = 2.0, 1.0  # cfg_scale
SONG_SECONDS = 180
FRAMES_A_SECOND = 16000 / 2048  # of the paper's autoencoder
CLASSES = ("bass", "drums", "guitar", "piano")
SOUNDS_DB = -40.0  # RMS over which the class and the rest of the band sound in a window, dBFS
TRIES = 50  # windows looked at for each that is wanted
METHODS = (
    *(("ddim", "linear", steps) for steps in (250, 100, 50, 20)),
    *(("dpm-solver++", "linear", steps) for steps in (50, 20, 10)),
    *(("dpm-solver++", "log-snr", steps) for steps in (50, 20, 10)),
    *(("heun", "linear", steps) for steps in (25, 10)),
    *(("heun", "log-snr", steps) for steps in (25, 10)),
)
WARM_UP = int(DEVICE == "cuda")  # rounds of `songs` that are not counted
TABLES = ("steps", "songs", "quality", "memory", "peer")
LENGTHS = (30, 120, 360)  # seconds of the songs of `memory`
PEER_SECONDS = 30


def filled(network: nn.Module) -> nn.Module:
    """The network for sampling; layers that start as zeros are filled with noise."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network.to(DEVICE, PRECISION).eval().requires_grad_(False)


class Extraction:
    """A mixture of so many windows and a prompt, and the networks that find the source."""

    def __init__(self, size: Size, windows: int) -> None:
        torch.manual_seed(0)
        config = DiTConfig(**size.model_config()["model"]["diffusion"]["config"])
        channels = config.io_channels // NUM_TRACKS
        self.network = filled(MGEDiffusion(config))
        hop = size.frames - Windows.cover(1, size.frames).overlap
        self.windows = Windows.cover(size.frames + (windows - 1) * hop, size.frames)
        length = self.windows.padded_length
        self.noise = torch.randn(1, NUM_TRACKS, channels, length, device=DEVICE)
        self.mixture = torch.randn(1, channels, length, device=DEVICE)
        self.embeddings = torch.zeros(1, NUM_TRACKS, config.global_cond_dim, device=DEVICE)
        self.embeddings[:, Track.SOURCE] = torch.randn(config.global_cond_dim)
        self.sats = filled(
            DiffusionTransformer(
                io_channels=config.io_channels,
                embed_dim=config.embed_dim,
                depth=config.depth,
                num_heads=config.num_heads,
                prepend_cond_dim=NUM_TRACKS * config.global_cond_dim,
                global_cond_dim=NUM_TRACKS * config.global_cond_dim,
                global_cond_type="adaLN",
            )
        )


def ours(extraction: Extraction, cfg_scale: float, steps: int) -> Tensor:
    """Latents (1, k, c, n) by the loop of the tasks: projected once, all windows together."""
    network, windows = extraction.network, extraction.windows
    given = Given.track(Track.MIXTURE, extraction.mixture)
    modulations = network.modulate(extraction.embeddings)
    rows = WindowRows(windows, [(0, w) for w in range(len(windows.starts))], 1, DEVICE)
    denoiser = Denoiser(network, modulations, None, given, Guidance(cfg_scale), rows)
    return sample_ddim(denoiser, extraction.noise, linear_schedule(steps))


def literal(extraction: Extraction, cfg_scale: float, steps: int) -> Tensor:
    """Latents (window, k, c, n) by the paper's algorithm 2 as it is written."""
    size, found = extraction.windows.size, []
    for start in extraction.windows.starts:
        noise, mixture = (
            tensor[..., start : start + size] for tensor in (extraction.noise, extraction.mixture)
        )
        found.append(_literal(extraction, noise.clone(), mixture, cfg_scale, steps))
    return torch.cat(found)


def _literal(
    extraction: Extraction, x: Tensor, mixture: Tensor, cfg_scale: float, steps: int
) -> Tensor:
    """One window, `x` its noise (1, k, c, n)."""
    dit, asked = extraction.network.model, extraction.embeddings
    denoised = x
    for t, t_next in checked(linear_schedule(steps)):
        x[:, Track.MIXTURE] = mixture
        levels = torch.full((1, NUM_TRACKS), float(t))
        levels[:, Track.MIXTURE] = 0.0
        levels = levels.to(DEVICE)
        v = unpack(dit(pack(x), levels, dit.modulate(asked)))
        if cfg_scale != 1.0:
            away = unpack(dit(pack(x), levels, dit.modulate(torch.zeros_like(asked))))
            v = away + cfg_scale * (v - away)
        x, denoised = ddim_step(x, v, t, t_next)
    denoised[:, Track.MIXTURE] = mixture
    return denoised


def sats(extraction: Extraction, cfg_scale: float, steps: int) -> Tensor:
    """Latents (window, k*c, n) by SAT's sampler on SAT's network; plain guidance, no APG."""
    prompt = extraction.embeddings.flatten(1)[:, None]
    count, size = len(extraction.windows.starts), extraction.windows.size
    noise = pack(extraction.noise[..., :size]).expand(count, -1, -1).contiguous()
    options = {"prepend_cond": prompt.expand(count, -1, -1), "cfg_scale": cfg_scale}
    if "apg_scale" in inspect.signature(DiffusionTransformer.forward).parameters:
        options["apg_scale"] = 0.0
    with contextlib.redirect_stderr(io.StringIO()):  # SAT's bar
        return sample_k(
            extraction.sats, noise, steps=steps, sampler_type="v-ddim", device=DEVICE, **options
        )


WAYS = {"ours": ours, "literal": literal, "SAT": sats}


def clock() -> float:
    """Seconds: of a CPU's one thread its own, which others' work changes little; else passed."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() if DEVICE == "cuda" else time.process_time()


def one_thread() -> None:
    """Compute on one core, whose time `clock` then is."""
    if DEVICE == "cpu":
        torch.set_num_threads(1)


def in_turns(
    ways: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way in every round, after those to warm up; who is first changes."""
    taken = {name: [] for name in ways}
    names = list(ways)
    for number in track(range(-warm_up, rounds), "in turns", transient=True):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = clock()
            ways[name]()
            if number >= 0:
                taken[name].append(clock() - start)
    return taken


def ratio(taken: dict[str, list[float]], name: str) -> str:
    """Ours to the other way's: the median of the rounds' ratios, and the quartiles."""
    ratios = [a / b for a, b in zip(taken["ours"], taken[name], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def steps_table(names: Sequence[str], rounds: int) -> Table:
    """Milliseconds of a step."""
    table = Table(
        *("size", "windows", "cfg_scale", "ms", "literal ms", "ratio", "SAT ms", "ratio"),
        title=f"a sampling step on {DEVICE}",
    )
    for name in names:
        for windows in (1, 4):
            extraction = Extraction(SIZES[name], windows)
            for cfg_scale in (UNGUIDED, GUIDED):
                ways = {
                    way: lambda run=run, e=extraction, c=cfg_scale, s=STEPS[name]: run(e, c, s)
                    for way, run in WAYS.items()
                }
                taken = in_turns(ways, rounds)
                ms = {w: 1e3 * statistics.median(v) / STEPS[name] for w, v in taken.items()}
                table.add_row(
                    *(name, str(windows), f"{cfg_scale:g}", f"{ms['ours']:.2f}"),
                    *(f"{ms['literal']:.2f}", ratio(taken, "literal")),
                    *(f"{ms['SAT']:.2f}", ratio(taken, "SAT")),
                )
    return table


def graphs_table(names: Sequence[str], rounds: int) -> Table:
    """Milliseconds of a guided step of one window: compiled into CUDA graphs, against eager."""
    table = Table("size", "ms", "literal, eager ms", "ratio", title="bf16 and CUDA graphs")
    if DEVICE != "cuda":
        table.add_row("not measured: no GPU")
        return table
    for name in names:
        eager, compiled = Extraction(SIZES[name], 1), Extraction(SIZES[name], 1)
        compiled.network.model.compile(mode="reduce-overhead", dynamic=False)
        steps = STEPS[name]
        ways = {
            "ours": lambda e=compiled, s=steps: ours(e, GUIDED, s),
            "literal": lambda e=eager, s=steps: literal(e, GUIDED, s),
        }
        in_turns(ways, 2)  # compiles, and records the graphs
        taken = in_turns(ways, rounds)
        ms = {way: 1e3 * statistics.median(values) / steps for way, values in taken.items()}
        table.add_row(name, f"{ms['ours']:.2f}", f"{ms['literal']:.2f}", ratio(taken, "literal"))
    return table


SONG_WAYS = {
    "together, 4 at a time": Sampling.paper(window_batch=4),
    "together, 8 at a time": Sampling.paper(window_batch=8),
    "one after another, DDIM": Sampling.paper(long_form="sequential"),
    "one after another, RePaint, U = 2": Sampling(
        long_form="sequential", sampler="repaint", resamplings=2
    ),
}


def songs_table(name: str, steps: int, rounds: int) -> Table:
    """Seconds of the guided sampling of a three-minute song."""
    config = DiTConfig(**SIZES[name].model_config()["model"]["diffusion"]["config"])
    torch.manual_seed(0)
    network = filled(MGEDiffusion(config))
    windows = Windows.cover(round(SONG_SECONDS * FRAMES_A_SECOND), SIZES[name].frames)
    channels, count = config.io_channels // NUM_TRACKS, len(windows.starts)
    prompt = torch.randn(1, NUM_TRACKS, config.global_cond_dim, device=DEVICE)
    mixture = torch.randn(1, channels, windows.padded_length, device=DEVICE)
    song = Batch(
        ItemNoise([0], (NUM_TRACKS, channels, windows.padded_length), DEVICE),
        network.modulate(prompt),
        windows,
        [(0, window) for window in range(count)],
        Given.track(Track.MIXTURE, mixture),
    )
    samplings = {way: replace(sampling, steps=steps) for way, sampling in SONG_WAYS.items()}
    ways = {way: lambda s=s: denoise(network, song, s) for way, s in samplings.items()}
    taken = {way: statistics.median(t) for way, t in in_turns(ways, rounds, WARM_UP).items()}
    table = Table(
        "windows",
        "s",
        "s with 250 steps",
        "together, 4, is faster",
        title=f"{SONG_SECONDS // 60} minutes, {name}, {count} windows, {steps} steps on {DEVICE}",
    )
    for way, value in taken.items():
        faster = value / taken["together, 4 at a time"]
        table.add_row(way, f"{value:.1f}", f"{value * 250 / steps:.0f}", f"{faster:.2f} times")
    return table


@dataclass(frozen=True)
class Sample:
    """A window of a song at the model's rate, (channels, samples)."""

    label: str
    mixture: np.ndarray
    source: np.ndarray


def samples(songs: Sequence[Song], label: str, form: Format, count: int) -> list[Sample]:
    """Windows in which the class and something else sound, from one song after another."""
    rng = np.random.default_rng(0)
    having = [song for song in songs if any(stem.label == label for stem in song.stems)]
    found: list[Sample] = []
    for number in range(TRIES * count if having else 0):
        song = having[number % len(having)]
        stems = tuple(i for i, stem in enumerate(song.stems) if stem.label == label)
        start = int(rng.integers(max(1, song.samples(form.sample_rate) - form.samples)))
        audio = make_triplet(Window(song, stems, start), form).audio
        if min(rms_db(audio[Track.SOURCE]), rms_db(audio[Track.SUBMIXTURE])) > SOUNDS_DB:
            found.append(Sample(label, audio[Track.MIXTURE], audio[Track.SOURCE]))
        if len(found) == count:
            break
    return found


def distances(
    estimates: Sequence[np.ndarray], chosen: Sequence[Sample], sample_rate: int
) -> np.ndarray:
    """Log-Mel L1 of every window."""
    pairs = zip(estimates, chosen, strict=True)
    return np.array([log_mel_l1(found, sample.source, sample_rate) for found, sample in pairs])


def extract(pipeline: Pipeline, chosen: Sequence[Sample], sampling: Sampling) -> list[np.ndarray]:
    """The source of each window as the model makes it."""
    requests = [
        Request(
            "extract",
            label_prompt(sample.label),
            (sample.mixture, pipeline.sample_rate),
            seed=number,
            sampling=sampling,
            finish=Finish("none", gate=False),
        )
        for number, sample in enumerate(chosen)
    ]
    return [next(iter(result.audio.values())) for result in pipeline.run(requests)]


def floors(pipeline: Pipeline, chosen: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
    """Estimates that need no sampler."""
    coded = [pipeline.decode(pipeline.encode(s.source), pipeline.window) for s in chosen]
    return {
        "mixture as estimate": [sample.mixture for sample in chosen],
        "silence as estimate": [np.zeros_like(sample.source) for sample in chosen],
        "the source through the autoencoder": coded,
    }


def by_method(
    pipeline: Pipeline, chosen: Sequence[Sample], cfg_scale: float
) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Sampler, steps, calls, seconds per window, and the Log-Mel L1 of every window."""
    rate = pipeline.sample_rate
    rows = [
        ((name, "", "", ""), distances(estimates, chosen, rate))
        for name, estimates in floors(pipeline, chosen).items()
    ]
    for sampler, schedule, steps in track(METHODS, "methods", transient=True):
        start = clock()
        sampling = Sampling(steps, cfg_scale, 0, 8, sampler=sampler, schedule=schedule)
        estimates = extract(pipeline, chosen, sampling)
        taken = (clock() - start) / len(chosen)
        calls = 2 * steps - 1 if sampler == "heun" else steps
        cells = (f"{sampler}, {schedule}", str(steps), str(calls), f"{taken:.2f}")
        rows.append((cells, distances(estimates, chosen, rate)))
    return rows


def quality_table(pipeline: Pipeline, corpus: Path, split: str, count: int, cfg: float) -> Table:
    """Log-Mel L1 by class, and how much worse each way is than DDIM in 250 steps."""
    rate = pipeline.sample_rate
    form = Format(rate, pipeline.window, pipeline.channels)
    songs = read_corpus(CorpusConfig("corpus", str(corpus), split=split)).songs
    chosen = [s for label in CLASSES for s in samples(songs, label, form, count)]
    labels = np.array([sample.label for sample in chosen])
    present = [label for label in CLASSES if label in labels]
    rows = by_method(pipeline, chosen, cfg)
    first = next(far for cells, far in rows if cells[1])
    names = ("sampler", "steps", "calls", "s a window", *present, "mean", "worse than DDIM 250")
    title = f"Log-Mel L1, {len(chosen)} windows of {form.samples / rate:.1f} s, cfg_scale {cfg:g}"
    table = Table(*names, title=title)
    for cells, far in rows:
        means = [far[labels == label].mean() for label in present]
        table.add_row(*cells, *(f"{m:.3f}" for m in (*means, far.mean())), plus_minus(far - first))
    return table


def plus_minus(differences: np.ndarray) -> str:
    """The mean over windows and its standard error."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return f"{differences.mean():+.3f} ± {error:.3f}"


def one_song(files: tuple, seconds: int, steps: int) -> dict[str, float]:
    """Seconds per stage and peak MiB of an extraction of two sources; call in a fresh process."""
    one_thread()
    generator = np.random.default_rng(0)
    song = 0.1 * generator.standard_normal((2, seconds * 44100), dtype=np.float32)
    pipeline = load(*files)
    before = peak()
    made = pipeline.extract((song, 44100), ["bass", "drums"], sampling=Sampling(steps))
    return made.info["seconds"] | {
        "peak MiB": peak(),
        "growth in songs": (peak() - before) * 2**20 / song.nbytes,
    }


def peak() -> float:
    """MiB that this process had at most: resident, or of the GPU."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # ru_maxrss begins with what the parent had
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory_table(files: tuple, steps: int) -> Table:
    """Extractions with everything that belongs to them, each in a process of its own."""
    rows = {}
    for seconds in LENGTHS:
        with get_context("spawn").Pool(1) as pool:
            rows[seconds] = pool.apply(one_song, (files, seconds, steps))
    title = f"two sources of 44.1 kHz stereo, {steps} steps, on {DEVICE}"
    table = Table("seconds of song", *rows[LENGTHS[0]], title=title)
    for seconds, found in rows.items():
        table.add_row(str(seconds), *(f"{value:.1f}" for value in found.values()))
    return table


def hdemucs() -> Callable[[Tensor], Tensor]:
    """torchaudio's HDemucs with random weights: (2, samples) of 44.1 kHz to (4, 2, samples)."""
    model = hdemucs_high(["drums", "bass", "other", "vocals"]).to(DEVICE).eval()
    windows = Windows(PEER_SECONDS * 44100, 10 * 44100, 10 * 44100 // 4)

    def separate(song: Tensor) -> Tensor:
        padded = nn.functional.pad(song, (0, windows.padded_length - song.shape[1]))
        pieces = [model(piece[None].to(DEVICE))[0].cpu() for piece in windows.cut(padded)]
        return windows.join(torch.stack(pieces))

    return separate


def peer_table(files: tuple, rounds: int) -> Table:
    """Seconds of ours, by stage, and of the peer."""
    song = 0.1 * torch.randn(2, PEER_SECONDS * 44100)
    pipeline, separate, stages = load(*files), hdemucs(), []

    def extraction() -> None:
        made = pipeline.extract((song, 44100), CLASSES)
        stages.append(made.info["seconds"])

    taken = in_turns({"ours": extraction, "HDemucs": lambda: separate(song)}, rounds, WARM_UP)
    table = Table("system", "s", title=f"{PEER_SECONDS} s of 44.1 kHz stereo on {DEVICE}")
    for name, values in taken.items():
        table.add_row(name, f"{statistics.median(values):.1f}")
    for stage in stages[0]:
        table.add_row(f"ours: {stage}", f"{statistics.median(s[stage] for s in stages):.1f}")
    return table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = list(SIZES) if DEVICE == "cuda" else ["golden", "small", "medium"]
    add = parser.add_argument
    add("--only", nargs="+", choices=TABLES, default=TABLES, help="tables")
    add("--sizes", nargs="+", choices=SIZES, default=sizes, help="of the networks of `steps`")
    add("--rounds", type=int, default=9, help="turns of `steps`, 2 or more")
    add("--song-size", choices=SIZES, default="medium", help="of the network of `songs`")
    add("--song-steps", type=int, default=4)
    add("--song-rounds", type=int, default=2)
    add("--model-config", type=Path, help="of the trained model; default: the shipped one")
    add("--ckpt", type=Path)
    add("--corpus", type=Path, help="songs in Slakh's layout")
    add("--split", default="test", help="of the corpus")
    add("--windows", type=int, default=16, help="of each class, for `quality`")
    add("--cfg-scale", type=float, default=GUIDED, help="for `quality`")
    add("--steps", type=int, default=20, help="for `memory`")
    add("--peer-rounds", type=int, default=3)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Measure and print the tables."""
    asked, console = arguments(), Console()
    logging.disable(logging.WARNING)
    one_thread()
    if "steps" in asked.only:
        console.print(steps_table(asked.sizes, asked.rounds))
        console.print(graphs_table(asked.sizes, asked.rounds))
    if "songs" in asked.only:
        console.print(songs_table(asked.song_size, asked.song_steps, asked.song_rounds))
    files = (asked.model_config, asked.ckpt)
    if "quality" in asked.only:
        if asked.corpus:
            found = (asked.corpus, asked.split, asked.windows)
            console.print(quality_table(load(*files), *found, asked.cfg_scale))
        else:
            console.print("quality: not measured, needs --corpus")
    if "memory" in asked.only:
        console.print(memory_table(files, asked.steps))
    if "peer" in asked.only:
        console.print(peer_table(files, asked.peer_rounds))


if __name__ == "__main__":
    sys.exit(main())
