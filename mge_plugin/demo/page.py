"""The demo's page: what was extracted beside the truth, what was generated, and the figures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mge_plugin.data.songs import Song
from mge_plugin.evaluation.log_mel import log_mel_l1
from mge_plugin.evaluation.si_sdr import si_sdr
from mge_plugin.inference.pipeline import Result
from mge_plugin.report import Clip, Page, Section, Table, write_page

NOTICE = (
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
        return self.result.audio["source"]


@dataclass(frozen=True)
class Addition:
    """One instrument played anew to the song without it."""

    label: str
    prompt: str
    given: np.ndarray
    result: Result


def write_demo_page(
    path: Path,
    song: Song,
    extractions: list[Extraction],
    addition: Addition,
    generated: Result,
    prompt: str,
    facts: dict[str, str],
) -> Path:
    """Write the self-contained page and return its path."""
    page = Page(
        title="MGE-LDM: one model, three tracks",
        lead="Extract any instrument by text, or generate music, with one latent diffusion model.",
        notice=NOTICE,
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


def _addition_section(a: Addition) -> Section:
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
            Clip("Source", "what the model plays to it", audio["source"], rate, a.prompt),
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
