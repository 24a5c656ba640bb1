"""Stems that sound as no instrument does: bad renderings (`mge index --check-stems`).

Slakh2100 has stems of nothing but white noise, and of one tone for the whole song. They are told,
not left out: `exclude` in the dataset config does that, once their owner has listened.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.signal import welch
from tqdm import tqdm

from mge_plugin.data.audio import AudioError, read_window, rms_db
from mge_plugin.data.corpora.index import Corpus
from mge_plugin.data.songs import IndexReport, Part

WINDOWS = 5  # spread over a stem, those that are silent passed over
SECONDS = 2
SILENCE = -60.0  # dBFS
FRAME = 4096  # samples of a spectrum's frame
FLAT = 0.8  # geometric by arithmetic mean of a power spectrum: 1 is white, music far below
ALONE = 0.99  # share of the power in one tone and the bins beside it
NOISE = "stem of nothing but white noise"
TONE = "stem of one tone for the whole song"
ENOUGH = 2  # sounding windows without which nothing is said


def check_stems(corpus: Corpus) -> IndexReport:
    """What of a corpus's stems is white noise or one tone, by their files."""
    report = IndexReport()
    parts = [part for song in corpus.songs for part in song.parts]
    for part in tqdm(parts, f"{corpus.config.id}: stems", unit="stem", leave=False):
        try:
            spectra = list(_spectra(part))
        except AudioError as error:
            report.note(str(error), "stem that could not be listened to")
            continue
        if what := _oddity(spectra):
            report.note(part.path, what)
    return report


def _oddity(spectra: Sequence[np.ndarray]) -> str | None:
    """What is odd in all of a stem's spectra, if anything."""
    if len(spectra) < ENOUGH:
        return None
    if all(_flatness(power) > FLAT for power in spectra):
        return NOISE
    tones = {_tone(power) for power in spectra}
    return TONE if len(tones) == 1 and None not in tones else None


def _spectra(part: Part) -> Iterator[np.ndarray]:
    """Mean power spectra (bin,) of the windows that sound."""
    frames = SECONDS * part.sample_rate
    for start in np.linspace(0, max(0, part.num_frames - frames), WINDOWS).astype(int):
        audio = read_window(part.path, int(start), frames, part.stream).mean(axis=0)
        if rms_db(audio) > SILENCE:
            yield welch(audio, nperseg=FRAME)[1][1:]


def _flatness(power: np.ndarray) -> float:
    power = power + 1e-20
    return float(np.exp(np.log(power).mean()) / power.mean())


def _tone(power: np.ndarray) -> int | None:
    """The bin that has all the power with its neighbours, None if none has."""
    top = int(power.argmax())
    near = power[max(0, top - 3) : top + 4].sum()
    return top if near > ALONE * power.sum() else None
