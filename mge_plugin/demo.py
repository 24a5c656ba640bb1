"""The demo: a song that training never saw, every task on it by the weights that ship, a page.

The demo's page: what was extracted beside the truth, what was generated, and the figures.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mge_plugin.data.audio import fit_length, read_audio, write_wav
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.songs import Song
from mge_plugin.evaluation.metrics import log_mel_l1, si_sdr
from mge_plugin.files import shipped_file
from mge_plugin.inference.pipeline import Pipeline, load, pick
from mge_plugin.inference.request import Result, Sampling
from mge_plugin.prompts import label_prompt
from mge_plugin.report import Clip, Page, Section, Table, write_page
from minislakh import write_corpus

_NOTICE = (
    "The weights are small and were trained on synthetic songs alone, on two CPU cores: see their "
    "model card. They show what the method does, not how good it gets."
)


@dataclass(frozen=True)
class Extraction:
    """One instrument asked of the held-out song: audio is (channels, samples) of one rate."""

    label: str
    prompt: str
    mixture: np.ndarray
    truth: np.ndarray  # zeros where the song lacks the instrument
    result: Result

    @property
    def source(self) -> np.ndarray:
        return next(iter(self.result.audio.values()))


@dataclass(frozen=True)
class _Addition:
    """One instrument played anew to the song without it."""

    label: str
    prompt: str
    given: np.ndarray
    result: Result


def _write_demo_page(
    path: Path,
    song: Song,
    extractions: list[Extraction],
    addition: _Addition,
    generated: Result,
    prompt: str,
    facts: dict[str, str],
) -> Path:
    """Write the self-contained page and return its path."""
    page = Page(
        title="MGE-LDM: one model, three tracks",
        lead="Extract any instrument by text, or generate music, with one latent diffusion model.",
        notice=_NOTICE,
        sections=[
            _song_section(song, extractions[0]),
            *[_extraction_section(e) for e in extractions],
            _addition_section(addition),
            _generation_section(generated, prompt),
            Section("Figures", "", [], [_figures(extractions)]),
        ],
        facts=facts,
    )
    return write_page(page, path)


def _song_section(song: Song, first: Extraction) -> Section:
    stems = ", ".join(sorted(stem.label for stem in song.stems))
    clip = Clip("Mixture", "the only audio the model is given", first.mixture, _rate(first))
    text = f"{song.id}, a song that training never saw. It is played by: {stems}."
    return Section("The song", text, [clip], [])


def _extraction_section(e: Extraction) -> Section:
    in_song = "the true stem" if e.truth.any() else "the song has none: silence would be right"
    return Section(
        f"Extract: {e.label}",
        "",
        [
            Clip("Source", "what the model extracted", e.source, _rate(e), e.prompt),
            Clip("Truth", in_song, e.truth, _rate(e)),
            Clip("Residual", "mixture minus source", e.result.audio["residual"], _rate(e)),
        ],
        [],
    )


def _addition_section(a: _Addition) -> Section:
    rate, audio = a.result.sample_rate, a.result.audio
    return Section(
        f"Add: {a.label}",
        "",
        [
            Clip(
                "Submixture",
                f"the song without its {a.label}, all the model is given",
                a.given,
                rate,
            ),
            Clip("Source", "what the model plays to it", audio[a.label], rate, a.prompt),
            Clip("Mixture", "both together", audio["mixture"], rate),
        ],
        [],
    )


def _generation_section(generated: Result, prompt: str) -> Section:
    clip = Clip("Mixture", "from noise", generated.audio["mixture"], generated.sample_rate, prompt)
    return Section("Generate", "", [clip], [])


def _figures(extractions: list[Extraction]) -> Table:
    columns = ["instrument", "Log-Mel L1", "of the mixture", "of silence", "SI-SDR, dB", "gain, dB"]
    return Table(
        columns,
        [_row(e) for e in extractions],
        "Log-Mel L1 to the true stem (lower is better) beside two floors: answering with the "
        "mixture, or with silence. SI-SDR (higher is better) and its gain over the mixture.",
    )


def _row(e: Extraction) -> list[str]:
    distances = [
        log_mel_l1(estimate, e.truth, _rate(e))
        for estimate in (e.source, e.mixture, np.zeros_like(e.truth))
    ]
    ratio = si_sdr(e.source, e.truth)
    ratios = [ratio, ratio - si_sdr(e.mixture, e.truth)]
    return [
        e.label if e.truth.any() else f"{e.label} (not in the song)",
        *[f"{distance:.2f}" for distance in distances],
        *["-" if np.isnan(value) else f"{value:.1f}" for value in ratios],
    ]


def _rate(e: Extraction) -> int:
    return e.result.sample_rate


INSTRUMENTS = ("bass", "drums", "guitar", "piano")
_WEIGHTS = "weights/minislakh"
OTHER_SONGS = 1000  # added to the seed: the weights were trained on songs of seed 0


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the defaults take about a minute on two CPU cores."""

    songs: int = 5  # of which the one with most of the instruments is used
    seconds: float = 15.0  # a song
    generated_seconds: float = 10.0
    steps: int = 20
    cfg_scale: float = 2.0


def run_demo(out: Path, seed: int, device: str, size: DemoSize | None = None) -> Path:
    """Make everything under `out` and return the path of its page."""
    size, start = size or DemoSize(), time.monotonic()
    device = pick(device)
    corpus = write_corpus(out / "corpus", size.songs, size.seconds, OTHER_SONGS + seed)
    song = fullest_song(corpus)
    files = [shipped_file(f"{_WEIGHTS}/model.{ending}") for ending in ("json", "safetensors")]
    pipeline = load(*files, device)
    sampling = Sampling(size.steps, size.cfg_scale, seed)
    extractions = _extract_all(pipeline, song, sampling)
    addition = _add_missing(pipeline, song, sampling)
    prompt = label_prompt(INSTRUMENTS)
    generated = pipeline.generate(prompt, seconds=size.generated_seconds, sampling=sampling)
    _write_results(out, extractions, addition, generated)
    facts = {
        "Device": device,
        "Weights": _WEIGHTS,
        "Song": f"{song.id}, {size.seconds:g} s",
        "Sampling": f"{sampling.sampler}, {size.steps} steps, guidance {size.cfg_scale:g}",
        "All": f"{time.monotonic() - start:.0f} s",
    }
    return _write_demo_page(
        out / "index.html", song, extractions, addition, generated, prompt, facts
    )


def fullest_song(corpus: Path) -> Song:
    """The song that has most of the instruments asked for."""
    splits = ("train", "validation", "test")
    songs = [
        song
        for split in splits
        for song in read_corpus(CorpusConfig("demo", str(corpus), split=split)).songs
    ]
    return max(songs, key=lambda song: len({s.label for s in song.stems} & set(INSTRUMENTS)))


def _extract_all(pipeline: Pipeline, song: Song, sampling: Sampling) -> list[Extraction]:
    """Extract every instrument from the song's mixture file, beside the true stem."""
    mixture, rate = read_audio(song.path / "mix.flac")
    extractions = []
    for label in tqdm(INSTRUMENTS, desc="extracting", unit="source"):
        prompt = label_prompt(label)
        result = pipeline.extract((mixture, rate), prompt, sampling=sampling)
        truth = _sum_of_stems(song, label, mixture)
        extractions.append(Extraction(label, prompt, mixture, truth, result))
    return extractions


def _add_missing(pipeline: Pipeline, song: Song, sampling: Sampling) -> _Addition:
    """Take the song's first instrument away and have the model play another one."""
    mixture, rate = read_audio(song.path / "mix.flac")
    label = next(i for i in INSTRUMENTS if i in {stem.label for stem in song.stems})
    without = mixture - _sum_of_stems(song, label, mixture)
    prompt = label_prompt(label)
    result = pipeline.add((without, rate), prompt, sampling=sampling)
    return _Addition(label, prompt, without, result)


def _sum_of_stems(song: Song, label: str, like: np.ndarray) -> np.ndarray:
    total = np.zeros_like(like)
    for stem in song.stems:
        if stem.label == label:
            total += fit_length(read_audio(stem.path)[0], like.shape[1])
    return total


def _write_results(
    out: Path, extractions: list[Extraction], addition: _Addition, generated: Result
) -> None:
    for e in extractions:
        for name, audio in e.result.audio.items():
            track = "residual" if name == "residual" else "source"
            write_wav(out / f"{e.label}_{track}.wav", audio, e.result.sample_rate)
    rate = extractions[0].result.sample_rate
    write_wav(out / "mixture.wav", extractions[0].mixture, rate)
    write_wav(out / f"new_{addition.label}.wav", addition.result.audio["mixture"], rate)
    write_wav(out / "generated.wav", generated.audio["mixture"], generated.sample_rate)
