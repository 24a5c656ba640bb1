"""The demo: a song that training never used, each task on it with the shipped weights, a page."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mge_plugin.data.audio import fit_length, read_audio, write_wav
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.songs import Song
from mge_plugin.evaluation.metrics import log_mel_l1, si_sdr
from mge_plugin.inference.pipeline import load
from mge_plugin.inference.request import Result
from mge_plugin.models.hub import DEFAULT_MODEL, find_model
from mge_plugin.prompts import label_prompt
from mge_plugin.report import Clip, Page, Section, Table, write_page
from minislakh import write_corpus

INSTRUMENTS = ("bass", "drums", "guitar", "piano")
_OTHER_SONGS = 1000  # added to the seed: the weights were trained on songs of seed 0
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _DemoSize:
    """How much the demo computes; the defaults take about a minute on two CPU cores."""

    songs: int = 5  # of which the one with most of the instruments is used
    seconds: float = 15.0  # length of a song
    generated_seconds: float = 10.0
    steps: int | None = None  # None: the model's own


@dataclass(frozen=True)
class _Extraction:
    """One instrument of the song; audio is (channels, samples) at one rate."""

    label: str
    mixture: np.ndarray
    truth: np.ndarray  # zeros if the song lacks the instrument
    result: Result

    @property
    def source(self) -> np.ndarray:
        return self.result.audio[self.label]

    @property
    def is_in_song(self) -> bool:
        return bool(self.truth.any())

    def section(self) -> Section:
        """The mixture and what was extracted from it, beside the true stem."""
        rate = self.result.sample_rate
        truth = "the true stem" if self.is_in_song else "not in the song: silence is right"
        prompt, residual = label_prompt(self.label), self.result.audio["residual"]
        clips = [
            Clip("Mixture", "the only audio that the model is given", self.mixture, rate),
            Clip("Source", "what the model extracted", self.source, rate, prompt, part=True),
            Clip("Residual", "mixture minus source", residual, rate, part=True),
            Clip("Truth", truth, self.truth, rate),
        ]
        return Section(f"Extract: {self.label}", clips=clips)

    def row(self) -> list[str]:
        """Its row in the table of scores."""
        rate, silence = self.result.sample_rate, np.zeros_like(self.truth)
        estimates = (self.source, self.mixture, silence)
        distances = [log_mel_l1(estimate, self.truth, rate) for estimate in estimates]
        ratio = si_sdr(self.source, self.truth)
        ratios = [ratio, ratio - si_sdr(self.mixture, self.truth)]
        return [
            self.label if self.is_in_song else f"{self.label} (not in the song)",
            *[f"{distance:.2f}" for distance in distances],
            *["-" if not np.isfinite(value) else f"{value:.1f}" for value in ratios],
        ]


def run_demo(out: Path, seed: int, device: str, size: _DemoSize | None = None) -> Path:
    """Write audio and a page under `out`, also again; returns the page's path.

    A folder of other files, or of a demo with another seed, raises.
    """
    size, start = size or _DemoSize(), time.monotonic()
    if out.exists() and not (out / "corpus").exists() and any(out.iterdir()):
        raise ValueError(f"{out}: expected an empty folder or one that an earlier demo made")
    corpus = write_corpus(out / "corpus", size.songs, size.seconds, _OTHER_SONGS + seed)
    song = _fullest_song(corpus)
    model = find_model(DEFAULT_MODEL)
    pipeline = load(*model.paths, device=device)
    steps = size.steps or pipeline.sampling.steps
    sampling = replace(pipeline.sampling, seed=seed, steps=steps)
    mixture, rate = read_audio(song.path / "mix.flac")
    stems = {label: _sum_of_stems(song, label, mixture) for label in INSTRUMENTS}
    extractions = [
        _Extraction(
            label,
            mixture,
            stems[label],
            pipeline.extract((mixture, rate), label_prompt(label), sampling=sampling),
        )
        for label in tqdm(INSTRUMENTS, desc="extracting", unit="source")
    ]
    removed = next(label for label in INSTRUMENTS if stems[label].any())
    given = mixture - stems[removed]
    added = pipeline.add((given, rate), label_prompt(removed), sampling=sampling)
    prompt = label_prompt(INSTRUMENTS)
    generated = pipeline.generate(prompt, size.generated_seconds, sampling=sampling)
    for e in extractions:
        write_wav(out / f"{e.label}_source.wav", e.source, rate)
        write_wav(out / f"{e.label}_residual.wav", e.result.audio["residual"], rate)
    write_wav(out / "mixture.wav", mixture, rate)
    write_wav(out / f"new_{removed}.wav", added.audio["mixture"], rate)
    write_wav(out / "generated.wav", generated.audio["mixture"], generated.sample_rate)
    playing = ", ".join(sorted(stem.label for stem in song.stems))
    page = Page(
        title="MGE-LDM: one model, three tracks",
        lead="Extract any instrument by text, or generate music, with one latent diffusion model.",
        notice=model.card.notice or "",
        sections=[
            Section("The song", f"{song.id}, which training never used. Instruments: {playing}."),
            *[e.section() for e in extractions],
            _addition(removed, given, added),
            _generation(generated, prompt),
            Section("Scores", tables=[_scores(extractions)]),
        ],
        facts={
            "Device": pipeline.device,
            "Weights": model.name,
            "Song": f"{song.id}, {size.seconds:g} s",
            "Sampling": f"{sampling.sampler}, {sampling.steps} steps, guidance "
            f"{sampling.cfg_scale:g}",
            "All": f"{time.monotonic() - start:.0f} s",
        },
    )
    return write_page(page, out / "index.html")


def _fullest_song(corpus: Path) -> Song:
    """The song with most of the instruments."""
    songs = [
        song
        for split in _SPLITS
        for song in read_corpus(CorpusConfig("demo", str(corpus), split=split)).songs
    ]
    return max(songs, key=lambda song: len({s.label for s in song.stems} & set(INSTRUMENTS)))


def _sum_of_stems(song: Song, label: str, like: np.ndarray) -> np.ndarray:
    total = np.zeros_like(like)
    for stem in song.stems:
        if stem.label == label:
            total += fit_length(read_audio(stem.path)[0], like.shape[1])
    return total


def _addition(label: str, given: np.ndarray, result: Result) -> Section:
    rate, audio, prompt = result.sample_rate, result.audio, label_prompt(label)
    caption = f"the song without its {label}: all that the model is given"
    clips = [
        Clip("Submixture", caption, given, rate, part=True),
        Clip("Source", "what the model adds", audio[label], rate, prompt, part=True),
        Clip("Mixture", "both together", audio["mixture"], rate),
    ]
    return Section(f"Add: {label}", clips=clips)


def _generation(result: Result, prompt: str) -> Section:
    audio = result.audio["mixture"]
    clip = Clip("Mixture", "from noise", audio, result.sample_rate, prompt)
    return Section("Generate", clips=[clip])


def _scores(extractions: list[_Extraction]) -> Table:
    columns = ["instrument", "Log-Mel L1", "of the mixture", "of silence", "SI-SDR, dB", "gain, dB"]
    return Table(
        columns,
        [e.row() for e in extractions],
        "Log-Mel L1 to the true stem (lower is better) beside two floors: the mixture or silence "
        "as the answer. SI-SDR (higher is better) and its gain over the mixture.",
    )
