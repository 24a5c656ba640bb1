"""Do a song's stems sum to the mixture that its corpus has of it? (`mge index --check-sums`)

Looked at in a few windows, each channel by itself: one song of MUSDB18 is off on the left only.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mge_plugin.data.audio import AudioError, audio_info, read_window, rms_db, to_channels
from mge_plugin.data.corpora.config import CorpusConfig
from mge_plugin.data.corpora.index import Corpus, read_corpus
from mge_plugin.data.songs import IndexReport, Part, Song

WINDOWS = 3  # spread over a song
SECONDS = 10
WRONG = "song whose stems do not sum to its mixture"


def _file_called(*names: str) -> Callable[[Song], Part | None]:
    def find(song: Song) -> Part | None:
        path = next((song.path / name for name in names if (song.path / name).is_file()), None)
        return None if path is None else Part(path, *audio_info(path))

    return find


# By type: where a song's mixture is, and which level of the difference is still fine, in dB of the
# mixture's. AAC's own noise is loud; MedleyDB's mixtures are mastered, MoisesDB has none.
MIXTURES: dict[str, tuple[Callable[[Song], Part | None], float]] = {
    "slakh": (_file_called("mix.flac", "mix.wav"), -40.0),
    "musdb18": (lambda song: replace(song.parts[0], stream=0), -15.0),
    "musdb18_hq": (_file_called("mixture.wav", "mixture.flac"), -40.0),
}


def check_sums(config: CorpusConfig, cache_folder: Path | None) -> IndexReport:
    """What of a corpus's split does not add up, all stems taken, whatever the config leaves out."""
    report = IndexReport()
    if config.type not in MIXTURES:
        report.note(config.path, f"no mixtures to compare sums with in type {config.type!r}")
        return report
    whole = replace(config, labels=None, exclude_labels=(), exclude=(), mixture_only=True)
    corpus: Corpus = read_corpus(whole, cache_folder)
    mixture_of, tolerance = MIXTURES[config.type]
    for song in tqdm(corpus.songs, f"{config.id}: sums", unit="song", leave=False):
        try:
            mixture = mixture_of(song)
            if mixture is None:
                report.note(song.path, "song without a mixture to compare with")
            elif wrong := list(_wrong_channels(song, mixture, tolerance)):
                report.note(f"{song.path} ({', '.join(wrong)})", WRONG)
        except AudioError as error:
            report.note(str(error), "song that could not be compared with its mixture")
    return report


def _wrong_channels(song: Song, mixture: Part, tolerance: float) -> Iterator[str]:
    """The channels, from 1, whose difference is louder than it may be, with its level."""
    last = max(0, mixture.num_frames - SECONDS * mixture.sample_rate)
    starts = np.linspace(0, last, WINDOWS).astype(int)
    pairs = [_window(song, mixture, int(start)) for start in starts]
    expected, summed = (np.concatenate(audio, axis=1) for audio in zip(*pairs, strict=True))
    for number, (mix, total) in enumerate(zip(expected, summed, strict=True), 1):
        difference = rms_db(mix - total)
        if difference > max(rms_db(mix), rms_db(total)) + tolerance:
            yield f"channel {number}: {difference - rms_db(mix):.0f} dB"


def _window(song: Song, mixture: Part, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixture and the sum of the stems, (channels, samples) each."""
    frames = SECONDS * mixture.sample_rate
    expected = read_window(mixture.path, start, frames, mixture.stream)
    summed = np.zeros_like(expected)
    for part in song.parts:
        if part.sample_rate != mixture.sample_rate:
            rates = f"{part.sample_rate} Hz beside a mixture of {mixture.sample_rate} Hz"
            raise AudioError(rates, part.path)
        audio = read_window(part.path, start, frames, part.stream)
        summed += to_channels(audio, len(expected))
    return expected, summed
