"""Small corpora of every kind, written by the tests that read them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import soundfile as sf

from mge_plugin.config import parse_section
from mge_plugin.data.corpora.index import Corpus, read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig

RATE = 16_000


@pytest.fixture
def index() -> Callable[..., Corpus]:
    """Index a corpus by the keys that a dataset config would have."""

    def run(kind: str, path: Path, cache: Path | None = None, **keys) -> Corpus:
        entry = {"id": "corpus", "type": kind, "path": str(path)} | keys
        return read_corpus(parse_section(CorpusConfig, entry, "datasets[0]"), cache)

    return run


@pytest.fixture
def write(noise) -> Callable[..., Path]:
    """Write noise as an audio file, with the folders above it."""

    def run(path: Path, samples: int = 1600, rate: int = RATE, channels: int = 1, **keys) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, noise(samples, len(path.name), channels), rate, **keys)
        return path

    return run


@pytest.fixture
def moises_song(write) -> Callable[..., Path]:
    """Write a MoisesDB song from (stem, track, samples, rate)."""

    def run(folder: Path, tracks: Sequence[tuple]) -> Path:
        stems: dict[str, list] = {}
        for stem, track, *audio in tracks:
            entry = {"id": track, "trackType": "x", "extension": "wav", "has_bleed": None}
            stems.setdefault(stem, []).append(entry)
            if audio:
                write(folder / stem / f"{track}.wav", *audio)
        listed = [{"id": s, "stemName": s, "tracks": t} for s, t in stems.items()]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data.json").write_text(json.dumps({"song": "t", "stems": listed}))
        return folder

    return run


@pytest.fixture
def labels() -> Callable[[Corpus], dict[str, list[str]]]:
    """The labels of every song of a corpus."""

    def of(corpus: Corpus) -> dict[str, list[str]]:
        return {song.id: [stem.label for stem in song.stems] for song in corpus.songs}

    return of
