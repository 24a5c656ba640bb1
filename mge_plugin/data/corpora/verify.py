"""Checks of `mge index` that read audio, and its reading of a config corpus by corpus.

--check-sums: do a song's stems sum to the mixture that its corpus has? A few windows are compared,
each channel by itself: one song of MUSDB18 differs on the left only.

--check-stems: stems that sound like no instrument, as bad renderings do. Slakh2100 has stems of
nothing but white noise, and of one tone for the whole song. They are reported, not left out:
`exclude` in the dataset config does that, once somebody has listened.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import welch
from tqdm import tqdm

from mge_plugin.config import ConfigError, found, parse_section, read_json
from mge_plugin.data.audio import AudioError, audio_info, read_window, rms_db, to_channels
from mge_plugin.data.corpora.duplicates import without_corpus_duplicates
from mge_plugin.data.corpora.index import AUTO, Corpus, cache_folder, read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig, weight_problems
from mge_plugin.data.songs import IndexReport, Part, Song

_SUM_WINDOWS = 3  # spread over a song
_SUM_SECONDS = 10
_WRONG = "song whose stems do not sum to its mixture"


def _file_called(*names: str) -> Callable[[Song], Part | None]:
    def find(song: Song) -> Part | None:
        path = next((song.path / name for name in names if (song.path / name).is_file()), None)
        return None if path is None else Part(path, *audio_info(path))

    return find


# By type: a song's mixture, and the highest level of a difference that is fine, in dB relative to
# it. AAC's own noise is loud; MedleyDB's mixtures are mastered, MoisesDB has none.
_MIXTURES: dict[str, tuple[Callable[[Song], Part | None], float]] = {
    "slakh": (_file_called("mix.flac", "mix.wav"), -40.0),
    "musdb18": (lambda song: replace(song.parts[0], stream=0), -15.0),
    "musdb18_hq": (_file_called("mixture.wav", "mixture.flac"), -40.0),
}


def _check_sums(config: CorpusConfig, cache_folder: Path | None) -> IndexReport:
    """Songs of a corpus's split whose stems, with those the config leaves out, do not add up."""
    report = IndexReport()
    if config.type not in _MIXTURES:
        report.note(config.path, f"no mixtures to compare sums with in type {config.type!r}")
        return report
    whole = replace(config, labels=None, exclude_labels=(), exclude=(), mixture_only=True)
    corpus: Corpus = read_corpus(whole, cache_folder)
    mixture_of, tolerance = _MIXTURES[config.type]
    for song in tqdm(corpus.songs, f"{config.id}: sums", unit="song", leave=False):
        try:
            mixture = mixture_of(song)
            if mixture is None:
                report.note(song.path, "song without a mixture to compare with")
            elif wrong := list(_wrong_channels(song, mixture, tolerance)):
                report.note(f"{song.path} ({', '.join(wrong)})", _WRONG)
        except AudioError as error:
            report.note(str(error), "song that could not be compared with its mixture")
    return report


def _wrong_channels(song: Song, mixture: Part, tolerance: float) -> Iterator[str]:
    """The channels, from 1, whose difference is louder than it may be, with its level."""
    last = max(0, mixture.num_frames - _SUM_SECONDS * mixture.sample_rate)
    starts = np.linspace(0, last, _SUM_WINDOWS).astype(int)
    pairs = [_window(song, mixture, int(start)) for start in starts]
    expected, summed = (np.concatenate(audio, axis=1) for audio in zip(*pairs, strict=True))
    for number, (mix, total) in enumerate(zip(expected, summed, strict=True), 1):
        difference = rms_db(mix - total)
        if difference > max(rms_db(mix), rms_db(total)) + tolerance:
            yield f"channel {number}: {difference - rms_db(mix):.0f} dB"


def _window(song: Song, mixture: Part, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixture and the sum of the stems, (channels, samples) each."""
    frames = _SUM_SECONDS * mixture.sample_rate
    expected = read_window(mixture, start, frames)
    summed = np.zeros_like(expected)
    for part in song.parts:
        if part.sample_rate != mixture.sample_rate:
            rates = f"{part.sample_rate} Hz beside a mixture of {mixture.sample_rate} Hz"
            raise AudioError(rates, part.path)
        audio = read_window(part, start, frames)
        summed += to_channels(audio, len(expected))
    return expected, summed


_WINDOWS = 5  # spread over a stem; silent ones are not used
_SECONDS = 2
_SILENCE = -60.0  # dBFS
_FRAME = 4096  # samples of a spectrum's frame
_FLAT = 0.8  # geometric by arithmetic mean of a power spectrum: 1 is white, music far below
_ALONE = 0.99  # share of the power in one tone and the bins beside it
_NOISE = "stem of nothing but white noise"
_TONE = "stem of one tone for the whole song"
_ENOUGH = 2  # windows that sound, needed for a report


def _check_stems(corpus: Corpus) -> IndexReport:
    """Stems of a corpus that are white noise or one tone, or silent in mono, by their files."""
    report = IndexReport()
    parts = [part for song in corpus.songs for part in song.parts]
    for part in tqdm(parts, f"{corpus.config.id}: stems", unit="stem", leave=False):
        try:
            spectra = list(_spectra(part))
        except AudioError as error:
            report.note(str(error), "stem that could not be read")
            continue
        if what := _oddity(spectra):
            report.note(part.path, what)
    return report


def _oddity(spectra: Sequence[np.ndarray]) -> str | None:
    """What is odd in all of a stem's spectra, if anything."""
    if len(spectra) < _ENOUGH:
        return None
    if all(_flatness(power) > _FLAT for power in spectra):
        return _NOISE
    tones = {_tone(power) for power in spectra}
    return _TONE if len(tones) == 1 and None not in tones else None


def _spectra(part: Part) -> Iterator[np.ndarray]:
    """Mean power spectra (bin,) of the windows that sound."""
    frames = _SECONDS * part.sample_rate
    for start in np.linspace(0, max(0, part.num_frames - frames), _WINDOWS).astype(int):
        audio = read_window(part, int(start), frames).mean(axis=0)
        if rms_db(audio) > _SILENCE:
            yield welch(audio, nperseg=_FRAME)[1][1:]


def _flatness(power: np.ndarray) -> float:
    power = power + 1e-20
    return float(np.exp(np.log(power).mean()) / power.mean())


def _tone(power: np.ndarray) -> int | None:
    """The bin that, with its neighbours, has all the power; None if there is none."""
    top = int(power.argmax())
    near = power[max(0, top - 3) : top + 4].sum()
    return top if near > _ALONE * power.sum() else None


_AUDIO_TYPES = ("mge_triplets", "mge_tracks")


_MARKS = {  # files that only corpora of this type have
    "slakh": ("*/metadata.yaml", "*/*/metadata.yaml"),
    "musdb18": ("*/*.stem.mp4",),
    "musdb18_hq": ("train/*/mixture.wav", "test/*/mixture.wav"),
    "moisesdb": ("*/data.json", "*/*/data.json"),
    "medleydb": ("*/*_STEMS", "*/*/*_STEMS"),
}


def _folder_config(folder: Path) -> dict[str, Any]:
    """The config of a corpus's folder; its files show the type."""
    types = (kind for kind, marks in _MARKS.items() if any(any(folder.glob(m)) for m in marks))
    entry = {"id": folder.resolve().name, "type": next(types, "folder"), "path": str(folder)}
    return {"dataset_type": "mge_triplets", "datasets": [entry]}


def index_config(
    path: Path, sums: bool = False, stems: bool = False
) -> tuple[list[Corpus], list[str]]:
    """The corpora that can be used, and a sentence for each that cannot.

    With `sums` and `stems` the corpora's reports have the results of these checks.
    """
    content = _folder_config(path) if path.is_dir() else read_json(path)
    name = content.get("dataset_type")
    if name not in _AUDIO_TYPES:
        raise ConfigError(
            f"{path}: mge index reads corpora of audio, dataset_type {' or '.join(_AUDIO_TYPES)}, "
            f"found {found(name)}; `mge check` looks at other types"
        )
    entries = content.get("datasets")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: datasets: expected one corpus or more, found none")
    setting = content.get("index_cache", AUTO)
    if setting is not None and not isinstance(setting, str):
        raise ConfigError(f"{path}: index_cache: expected a folder or null, found {found(setting)}")
    folder = cache_folder(setting)
    configs = [
        parse_section(CorpusConfig, entry, f"{path}: datasets[{i}]")
        for i, entry in enumerate(entries)
    ]
    if wrong := weight_problems(configs):
        raise ConfigError(*(f"{path}: {problem}" for problem in wrong))
    corpora, problems = [], []
    for config in configs:
        try:
            corpora.append(read_corpus(config, folder))
            if sums:
                corpora[-1].report.merge(_check_sums(config, folder))
            if stems:
                corpora[-1].report.merge(_check_stems(corpora[-1]))
        except (ConfigError, OSError) as error:
            problems.append(f"datasets: {config.id}: {error}")
    try:
        return without_corpus_duplicates(corpora), problems
    except ConfigError as error:
        return corpora, [*problems, *error.problems]
